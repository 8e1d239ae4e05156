/* commands - the subcommands; each takes its own argv (argv[0] is its name) and returns the program's exit code. */
#ifndef ROUSE_CLI_COMMANDS_H
#define ROUSE_CLI_COMMANDS_H

int cmd_worker(int argc, char **argv);
int cmd_generate(int argc, char **argv);
int cmd_produce(int argc, char **argv);
int cmd_consume(int argc, char **argv);
int cmd_snapshot(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_dlq(int argc, char **argv);
int cmd_demo(int argc, char **argv);

#endif
