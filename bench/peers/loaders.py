"""The peers, each a function that brings the model's tensors into memory and touches every page, or starts and makes a token.

    loaders.py serve                 imports everything, then forks for every line "NAME JSON" on stdin and answers with a line
    loaders.py start NAME JSON       one process start to first token: prints {"token", "at", "imported"}, monotonic seconds

A forked child has imported its libraries, started no thread and loaded nothing: a loader's time is that of loading.
"""
import json
import os
import sys
import time


def prompt(model):
    """The ids that `rouse bench start` begins with."""
    with open(os.path.join(model, "config.json")) as f:
        vocab = json.load(f)["vocab_size"]
    return [(7919 * (i + 1) + 104729) % vocab for i in range(16)]


def touch(tensors):
    """One byte of every page. Returns the bytes."""
    n = 0
    for t in tensors:
        flat = t.detach().contiguous().view(-1).view(torch_module().uint8)
        flat[::4096].sum()
        n += flat.numel()
    return n


def torch_module():
    import torch
    return torch


def load_safetensors(files):
    from safetensors.torch import load_file
    tensors = {}
    for f in files["safetensors"]:
        tensors.update(load_file(f))
    return touch(tensors.values()), tensors


def load_torch_mmap(files):
    tensors = torch_module().load(files["pt"][0], mmap=True, weights_only=True)
    return touch(tensors.values()), tensors


def load_transformers(files):
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(files["model"], dtype=torch_module().float16)
    return touch(model.state_dict().values()), model


def load_runai(files):
    from runai_model_streamer import SafetensorsStreamer
    streamer, tensors = SafetensorsStreamer(), {}
    with streamer:
        streamer.stream_files(files["safetensors"])
        for name, tensor in streamer.get_tensors():
            tensors[name] = tensor
        return touch(tensors.values()), tensors


def load_fastsafetensors(files):
    from fastsafetensors import SafeTensorsFileLoader
    loader = SafeTensorsFileLoader(None, "cpu", nogds=True)
    loader.add_filenames({0: files["safetensors"]})
    buffer = loader.copy_files_to_device()
    tensors = {k: buffer.get_tensor(k) for k in loader.get_keys()}
    return touch(tensors.values()), (tensors, buffer, loader)


def load_tensorizer(files):
    from tensorizer import TensorDeserializer
    d = TensorDeserializer(files["tensors"][0], device="cpu", num_readers=2)
    return touch([d[k] for k in d.keys()]), d


LOADERS = {"safetensors load_file": load_safetensors, "torch.load(mmap)": load_torch_mmap,
           "transformers from_pretrained": load_transformers, "runai-model-streamer": load_runai,
           "fastsafetensors": load_fastsafetensors, "tensorizer": load_tensorizer}


def start_transformers(files):
    from transformers import AutoModelForCausalLM
    torch = torch_module()
    model = AutoModelForCausalLM.from_pretrained(files["model"], dtype=torch.float16)
    with torch.inference_mode():
        return int(model(torch.tensor([prompt(files["model"])]), logits_to_keep=1).logits[0, -1].argmax())


def start_llama(files, use_mmap):
    import llama_cpp
    model = llama_cpp.Llama(files["gguf"][0], n_ctx=512, n_batch=512, n_threads=os.cpu_count(), n_threads_batch=os.cpu_count(),
                            use_mmap=use_mmap, logits_all=False, verbose=False)
    model.eval(prompt(files["model"]))
    return model.sample(temp=0.0)


# what it imports first, timed apart: a library in another language would not
STARTS = {"transformers": (start_transformers, ["torch", "transformers.models.gpt_neox.modeling_gpt_neox"]),
          "llama-cpp-python, mmap": (lambda f: start_llama(f, True), ["llama_cpp"]),
          "llama-cpp-python, read": (lambda f: start_llama(f, False), ["llama_cpp"])}


def answer(name, files):
    began = time.monotonic()
    n, keep = LOADERS[name](files)
    seconds = time.monotonic() - began
    return {"seconds": seconds, "bytes": n, "kept": keep is not None}


def in_child(name, files):
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            out = answer(name, files)
        except BaseException as e:  # whatever a library raises is this row's reason
            out = {"error": f"{type(e).__name__}: {e}"[:300]}
        os.write(w, json.dumps(out).encode())
        os._exit(0)
    os.close(w)
    with os.fdopen(r, "rb") as f:
        text = f.read()
    _, status = os.waitpid(pid, 0)
    return json.loads(text) if text else {"error": f"ended by wait status {status}"}


def serve():
    broken = {}
    for module in ("torch", "transformers", "safetensors.torch", "runai_model_streamer", "fastsafetensors", "tensorizer",
                   "transformers.models.gpt_neox.modeling_gpt_neox"):
        try:
            __import__(module)
        except Exception as e:
            broken[module] = f"{type(e).__name__}: {e}"[:300]
    print(json.dumps({"broken": broken}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(in_child(request["name"], request["files"])), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        start, modules = STARTS[sys.argv[2]]
        for name in modules:
            __import__(name)
        imported = time.clock_gettime(time.CLOCK_MONOTONIC)
        token = start(json.loads(sys.argv[3]))
        at = time.clock_gettime(time.CLOCK_MONOTONIC)
        print(json.dumps({"token": token, "at": at, "imported": imported}), flush=True)
        os._exit(0)
