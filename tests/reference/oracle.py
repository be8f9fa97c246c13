"""A second, independent decoder: stock transformers classes on renamed weights, no cache, plain Python loops.

Every forward recomputes the whole sequence under a 4-D mask, so nothing of the reference's forward, cache,
picking, commit or accept code is used. `ministral3` knows the query scale; `llama` does not and serves for
short positions.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, Ministral3Config, Ministral3ForCausalLM

KINDS = {"llama": (LlamaConfig, LlamaForCausalLM), "ministral3": (Ministral3Config, Ministral3ForCausalLM)}
SHARED_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "max_position_embeddings",
)


class Oracle:
    def __init__(self, folder, kind):
        folder = Path(folder)
        raw = json.loads((folder / "config.json").read_text())
        self.mask_id = raw["mask_token_id"]
        rope = dict(raw["rope_parameters"])
        if kind == "llama":
            rope.pop("llama_4_scaling_beta", None)
        config_class, model_class = KINDS[kind]
        config = config_class(**{name: raw[name] for name in SHARED_FIELDS}, rope_parameters=rope)
        self.model = model_class(config).eval()
        weights = {}
        for path in folder.glob("*.safetensors"):
            weights |= load_file(path)
        renamed = {
            name.replace("encoder.", "model.").replace("diffusion_head", "lm_head"): tensor.float()
            for name, tensor in weights.items()
        }
        self.model.load_state_dict(renamed, strict=True)
        self.lora_from = None
        adapter = folder / "linear_spec_lora"
        if adapter.is_dir():
            self._hook_adapter(adapter)

    def _hook_adapter(self, adapter):
        settings = json.loads((adapter / "adapter_config.json").read_text())
        scale = settings["lora_alpha"] / settings["r"]
        tensors = load_file(adapter / "adapter_model.safetensors")
        for index, layer in enumerate(self.model.model.layers):
            prefix = f"base_model.model.encoder.layers.{index}.self_attn.o_proj.lora_"
            delta = scale * tensors[f"{prefix}B.weight"].float() @ tensors[f"{prefix}A.weight"].float()

            def add(module, inputs, output, delta=delta):
                if self.lora_from is None:
                    return output
                added = inputs[0] @ delta.T
                added[:, : self.lora_from] = 0.0
                return output + added

            layer.self_attn.o_proj.register_forward_hook(add)

    @torch.no_grad()
    def forward(self, tokens, positions, visible, lora_from=None):
        self.lora_from = lora_from
        additive = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
        output = self.model(
            input_ids=torch.tensor([tokens]),
            position_ids=torch.tensor([positions]),
            attention_mask=additive[None, None],
            use_cache=False,
        )
        return output.logits[0]

    def causal(self, tokens):
        count = len(tokens)
        visible = torch.tensor([[k <= q for k in range(count)] for q in range(count)])
        return self.forward(tokens, list(range(count)), visible)

    def next(self, tokens):
        """The likeliest token behind some tokens, and its probability."""
        probability, token = self.causal(tokens)[-1].softmax(-1).max(dim=-1)
        return int(token), float(probability)

    def block(self, prefix, block, lora=False):
        count, start = len(prefix) + len(block), len(prefix)
        visible = torch.tensor([[k <= q or q >= start for k in range(count)] for q in range(count)])
        logits = self.forward(prefix + block, list(range(count)), visible, start if lora else None)
        return logits[start:]

    def without_mask(self, logits):
        logits = logits.clone()
        logits[:, self.mask_id] = -torch.inf
        return logits.argmax(dim=-1).tolist()


def ar(oracle, prompt, count):
    tokens = list(prompt)
    while len(tokens) < len(prompt) + count:
        tokens.append(int(oracle.causal(tokens)[-1].argmax()))
    return tokens[len(prompt) :]


def schedule(masks, steps):
    base, rest = divmod(masks, steps)
    return [base + 1] * rest + [base] * (steps - rest)


def diffusion(oracle, prompt, count, block_size, threshold, steps=None):
    """Returns tokens, what each was chosen with, denoise steps of every block, and commit passes."""
    seed, sure = oracle.next(list(prompt))
    prefix, emitted, confidences, taken, commits = list(prompt), [seed], [sure], [], 0
    while len(emitted) < count:
        x = [seed] + [None] * (block_size - 1)
        chosen_with = [sure] + [None] * (block_size - 1)
        plan = schedule(block_size - 1, steps or block_size - 1)
        done = 0
        while None in x:
            filled = [oracle.mask_id if token is None else token for token in x]
            logits = oracle.block(prefix, filled)
            x0 = oracle.without_mask(logits)
            p = [float(row.softmax(-1)[token]) for row, token in zip(logits, x0, strict=True)]
            open_places = sorted((i for i in range(block_size) if x[i] is None), key=lambda i: (-p[i], i))
            forced = open_places[: plan[done] if steps or threshold is None else 1]
            for i in open_places:
                if i in forced or (threshold is not None and p[i] >= threshold):
                    x[i], chosen_with[i] = x0[i], p[i]
            done += 1
        taken.append(done)
        commits += 1
        prefix += x
        seed, sure = oracle.next(prefix)
        emitted += [*x[1:], seed]
        confidences += [*chosen_with[1:], sure]
    return emitted[:count], confidences[:count], taken, commits


def linear(oracle, prompt, count, block_size, lora):
    """Returns tokens and, per cycle, how many drafts were accepted."""
    seed = int(oracle.causal(list(prompt))[-1].argmax())
    prefix, emitted, accepted = list(prompt), [seed], []
    while len(emitted) < count:
        drafts = oracle.without_mask(oracle.block(prefix, [seed] + [oracle.mask_id] * (block_size - 1), lora))
        x = [seed, *drafts[1:]]
        a = oracle.causal(prefix + x)[len(prefix) :].argmax(-1).tolist()
        m = 0
        while m < block_size - 1 and a[m] == x[m + 1]:
            m += 1
        emitted += a[: m + 1]
        prefix += x[: m + 1]
        seed = a[m]
        accepted.append(m)
    return emitted[:count], accepted


def quadratic(oracle, prompt, count, block_size):
    """docs/model.md, 3.4, loop by loop; returns tokens and the number of emitted drafts per cycle."""
    size, mask_id = block_size, oracle.mask_id
    start = len(prompt)
    total = start + size
    visible = torch.tensor([[k <= q or q >= start for k in range(total)] for q in range(total)])
    logits = oracle.forward(list(prompt) + [mask_id] * size, list(range(total)), visible)
    draft = [int(logits[start - 1].argmax()), *oracle.without_mask(logits[start:])[1:]]
    prefix, emitted, cycles = list(prompt), [], []
    while len(emitted) < count:
        c = len(prefix)
        tokens, positions = list(prefix), list(range(c))
        group, role = [-1] * c, [0] * c
        for j in range(size):
            tokens += [draft[j]] + [mask_id] * size
            positions += [c + j + i for i in range(size + 1)]
            group += [j] * (size + 1)
            role += list(range(size + 1))
        total = len(tokens)
        visible = torch.zeros(total, total, dtype=torch.bool)
        for q in range(total):
            for k in range(total):
                if k < c:
                    visible[q, k] = k <= q
                elif q >= c:
                    clean = role[k] == 0 and group[k] <= group[q]
                    visible[q, k] = clean or (role[q] > 0 and group[k] == group[q])
        rows = oracle.forward(tokens, positions, visible)[c:].view(size, size + 1, -1)
        pred = []
        for j in range(size):
            causal = int(rows[j, 0].argmax())
            pred.append([causal, causal, *oracle.without_mask(rows[j, 1:])[1:]])
        n = 1
        while n < size and pred[n - 1][0] == draft[n]:
            n += 1
        emitted += draft[:n]
        prefix += draft[:n]
        draft = pred[n - 1][1 : size + 1]
        cycles.append(n)
    return emitted[:count], cycles
