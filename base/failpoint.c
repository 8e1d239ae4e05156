#include "base/failpoint.h"

#ifdef ROUSE_CHAOS

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

#define RULES_MAX 16

struct rule {
    enum base_failpoint point;
    unsigned long pass; /* 1-based; 0: every one */
    char action[16];
    unsigned long ms;
};

static const char *const names[] = {
#define NAME(id, name) name,
    BASE_FAILPOINTS(NAME)
#undef NAME
};
static const char *const mutants[] = {
#define NAME(name) #name,
    BASE_MUTANTS(NAME)
#undef NAME
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct rule rules[RULES_MAX]; /* written once */
static unsigned n_rules;
static bool is_mutant[BASE_MUTANTS_N];
static atomic_ulong passes[BASE_FAILPOINTS_N];

static int find(const char *const *list, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (strcmp(list[i], name) == 0)
            return i;
    return -1;
}

static void refuse(const char *variable, const char *text, const char *why)
{
    fprintf(stderr, "rouse: %s=%s: %s\n", variable, text, why);
    exit(2);
}

static void read_rule(const char *text)
{
    char name[48], pass[16], action[32];
    if (n_rules == RULES_MAX || sscanf(text, "%47[^:]:%15[^:]:%31s", name, pass, action) != 3)
        refuse("ROUSE_FAILPOINT", text, "want POINT:PASS:ACTION, at most 16 of them, with commas between");
    struct rule *r = &rules[n_rules++];
    int point = find(names, BASE_FAILPOINTS_N, name);
    if (point < 0)
        refuse("ROUSE_FAILPOINT", text, "no such point; base/failpoint.h lists them");
    char *end = pass;
    r->point = (enum base_failpoint)point;
    r->pass = strcmp(pass, "*") == 0 ? 0 : strtoul(pass, &end, 10);
    if (strcmp(pass, "*") != 0 && (*end || r->pass == 0))
        refuse("ROUSE_FAILPOINT", text, "the pass is a number from 1, or *");
    int n = sscanf(action, "%15[a-z]=%lu", r->action, &r->ms);
    bool sleeps = n == 2 && strcmp(r->action, "sleep") == 0;
    bool plain = n == 1 && (!strcmp(action, "kill") || !strcmp(action, "stop") || !strcmp(action, "abort"));
    if (!sleeps && !plain)
        refuse("ROUSE_FAILPOINT", text, "the action is kill, stop, abort or sleep=MS");
}

static void read_mutant(const char *name)
{
    int mutant = find(mutants, BASE_MUTANTS_N, name);
    if (mutant < 0)
        refuse("ROUSE_MUTANT", name, "no such mutant; base/failpoint.h lists them");
    is_mutant[mutant] = true;
}

static void read_list(const char *variable, void (*read_one)(const char *))
{
    const char *text = getenv(variable);
    char *copy = text ? strdup(text) : NULL, *rest = NULL;
    for (char *one = copy ? strtok_r(copy, ",", &rest) : NULL; one; one = strtok_r(NULL, ",", &rest))
        read_one(one);
    free(copy);
}

static void read_environment(void)
{
    read_list("ROUSE_FAILPOINT", read_rule);
    read_list("ROUSE_MUTANT", read_mutant);
}

static void act(const struct rule *r)
{
    if (strcmp(r->action, "kill") == 0)
        raise(SIGKILL);
    else if (strcmp(r->action, "stop") == 0)
        raise(SIGSTOP);
    else if (strcmp(r->action, "abort") == 0)
        abort();
    else
        base_clock_sleep_ms((uint32_t)r->ms);
}

void base_failpoint_pass(enum base_failpoint point)
{
    pthread_once(&once, read_environment);
    unsigned long pass = atomic_fetch_add(&passes[point], 1) + 1;
    for (unsigned i = 0; i < n_rules; i++)
        if (rules[i].point == point && (rules[i].pass == 0 || rules[i].pass == pass))
            act(&rules[i]);
}

bool base_mutant_is(enum base_mutant m)
{
    pthread_once(&once, read_environment);
    return is_mutant[m];
}

#else
typedef int base_failpoint_is_empty; /* ISO C wants a declaration in every file */
#endif
