"""The physical limit of a model on a machine, from its config.json. Pure: numbers in, numbers out.

A step of decoding reads every weight that it multiplies by, and the keys and values of all contexts, and computes
two operations a weight and token; it can take no less than either of the two needs (the roofline: Williams,
Waterman and Patterson, Communications of the ACM 52, 2009; for decoders: Pope et al., Efficiently Scaling
Transformer Inference, MLSys 2023, section 2):

    decode step >= (weight bytes + KV bytes of all contexts) / bandwidth      and >= FLOPs / peak FLOP/s
    prefill     >= FLOPs / peak FLOP/s                                        and >= weight bytes / bandwidth
    FLOPs a token = 2 * weights it is multiplied by + 4 * layers * heads * head size * context it looks back at
    (Kaplan et al., Scaling Laws for Neural Language Models, 2020, section 2.1; attention counted, not left out)

MBU = (bytes / bandwidth) / measured, MFU = (FLOPs / peak) / measured. Left out, all of which would only raise the
limit: activations, softmax, norms, sampling, pictures' preprocessing, the network between GPUs.
"""
from dataclasses import dataclass

from lib import pixels
from lib.errors import UserError

# Bytes a weight. awq-int4: 4 bits, and for each group of GROUP weights a 16-bit scale and a 4-bit zero.
GROUP = 128
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1, "awq-int4": 0.5 + (2 + 0.5) / GROUP}
NAMES = {  # how torch's and vLLM's names of dtypes and quantizations begin
    "float32": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16", "fp8": "fp8", "mxfp8": "fp8", "int8": "int8",
    "awq": "awq-int4", "auto_awq": "awq-int4", "gptq": "awq-int4", "auto_gptq": "awq-int4"}
QUANTIZED = ("fp8", "int8", "awq-int4")  # of the decoder's matrices; embedding, head, norms and vision stay in 16 bits
FAMILIES = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "qwen3_vl", "qwen3_vl_moe")


@dataclass(frozen=True)
class Vision:
    """A vision tower. `a_patch`, `a_token`: weights that one patch, one merged token is multiplied by."""

    a_patch: int
    a_token: int
    parameters: int
    depth: int
    hidden: int
    processor: pixels.Processor

    def tokens(self, width: int, height: int) -> int:
        return pixels.tokens(width, height, self.processor)

    def flops(self, width: int, height: int) -> float:
        """Of one picture; each of its patches looks at all of them."""
        merged = self.tokens(width, height)
        patches = merged * self.processor.merge**2
        return 2 * (patches * self.a_patch + merged * self.a_token) + 4 * self.depth * self.hidden * patches**2


@dataclass(frozen=True)
class Model:
    """Numbers of weights. `stored`: the decoder's matrices; `active`: those that one token is multiplied by, fewer in a
    mixture of experts. `small`: norms and biases. `embedding`: once, whether or not the head is the same matrix."""

    name: str
    stored: int
    active: int
    small: int
    embedding: int
    tied: bool
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int | None = None  # tokens that attention looks back at, if not all
    vision: Vision | None = None

    @property
    def parameters(self) -> int:
        return (self.stored + self.small + self.embedding * (1 if self.tied else 2)
                + (self.vision.parameters if self.vision else 0))

    def weight_bytes(self, dtype: str) -> float:
        """All of them, as they lie in memory."""
        return self.stored * BYTES[dtype] + (self.parameters - self.stored) * BYTES[base(dtype)]

    def read_bytes(self, dtype: str) -> float:
        """Read for a step of text: the active matrices and the head. Of a mixture of experts, what one token alone
        needs; a batch may need more."""
        return self.active * BYTES[dtype] + (self.small + self.embedding) * BYTES[base(dtype)]

    def kv_bytes(self, dtype: str) -> float:
        """Keys and values of one token of context, in bytes."""
        return 2 * self.layers * self.kv_heads * self.head_dim * BYTES[dtype]

    def flops(self, context: float) -> float:
        """Of one token that looks back at `context` tokens, head included."""
        return 2 * (self.active + self.embedding) + 4 * self.layers * self.heads * self.head_dim * self.seen(context)

    def seen(self, context: float) -> float:
        return min(context, self.window) if self.window else context

    def prefill_flops(self, tokens: float, cached: float = 0.0) -> float:
        """Of a prompt of which the first `cached` tokens are known; only the last token needs the head. The token at
        place i looks back at i tokens (a window is left out: it would need less)."""
        new = tokens - cached
        looks = 0.0 if self.window else (tokens * (tokens + 1) - cached * (cached + 1)) / 2
        return 2 * (new * self.active + self.embedding) + 4 * self.layers * self.heads * self.head_dim * looks


@dataclass(frozen=True)
class Machine:
    """`reads`: (working set in bytes, bytes/s) as measured, or one pair (0, bytes/s) from a datasheet. `flops`: dtype ->
    FLOP/s of dense matrices. memory: bytes of a GPU. `link`: bytes/s between it and its host, one way."""

    name: str
    reads: tuple[tuple[float, float], ...]
    flops: dict[str, float]
    measured: bool = False
    memory: float | None = None
    link: float | None = None

    def bandwidth(self, working_set: float) -> float:
        """Bytes/s at which so many bytes can be read again and again. What fits into a cache is read faster, so the
        fastest counts that was seen with a working set as large, or with the next smaller one."""
        floor = max((size for size, _ in self.reads if size <= working_set), default=0)
        return max(rate for size, rate in self.reads if size >= floor)

    def peak(self, dtype: str) -> float:
        """FLOP/s for weights of this dtype. What a GPU does not compute in, it computes in 16 bits (4-bit weights
        always); where only 16 bits were measured, 8 bits are given twice that, as hardware does at most."""
        if dtype in self.flops:
            return self.flops[dtype]
        wide = next(self.flops[d] for d in ("fp16", "bf16", "fp32") if d in self.flops)
        return wide * (2 if self.measured and dtype in ("fp8", "int8") else 1)


@dataclass(frozen=True)
class Bound:
    """What a piece of work needs at least. `seconds`: the longer of memory and computing, summed over its parts."""

    bytes: float
    flops: float
    memory_s: float
    compute_s: float
    seconds: float

    @property
    def by(self) -> str:
        return "memory" if self.memory_s >= self.compute_s else "computing"

    def then(self, other: "Bound") -> "Bound":
        """This, and `other` after it."""
        return Bound(*(getattr(self, part) + getattr(other, part) for part in self.__dataclass_fields__))


@dataclass(frozen=True)
class Limit:
    """A model as it is served on a machine. shards: GPUs that share each layer (tensor parallel); replicas: copies of the
    model (data parallel). Both are taken to share the work perfectly."""

    model: Model
    dtype: str
    machine: Machine
    kv_dtype: str = ""
    shards: int = 1
    replicas: int = 1

    @property
    def kv_bytes(self) -> float:
        """Of one token of context."""
        return self.model.kv_bytes(self.kv_dtype or base(self.dtype))

    def decode(self, streams: float, context: float) -> Bound:
        """One step, a token for each of `streams` whose contexts are `context` tokens long on average."""
        streams = streams / self.replicas
        kv = streams * self.model.seen(context) * self.kv_bytes
        return self._bound(self.model.read_bytes(self.dtype) + kv, streams * self.model.flops(context))

    def tokens_per_s(self, streams: float, context: float) -> float:
        """Tokens/s that so many streams can get together at most."""
        return streams / self.decode(streams, context).seconds

    def prefill(self, tokens: float, cached: float = 0.0, pictures: tuple = ()) -> Bound:
        """From a prompt of `tokens`, picture tokens among them, to its first token. pictures: (width, height) of those
        that must be looked at: the tower works before the decoder can."""
        text = self._bound(self.model.read_bytes(self.dtype), self.model.prefill_flops(tokens, cached))
        if not (pictures and self.model.vision):
            return text
        looked = sum(self.model.vision.flops(*size) for size in pictures)
        return self._bound(self.model.vision.parameters * BYTES[base(self.dtype)], looked).then(text)

    def kv_room(self, utilization: float = 0.9) -> float | None:
        """Tokens of context for which there is memory beside the weights; None where the memory is not known."""
        if self.machine.memory is None:
            return None
        room = self.machine.memory * utilization * self.shards - self.model.weight_bytes(self.dtype)
        return max(room, 0.0) * self.replicas / self.kv_bytes

    def _bound(self, size: float, flops: float) -> Bound:
        memory = size / self.shards / self.machine.bandwidth(size / self.shards)
        compute = flops / self.shards / self.machine.peak(self.dtype)
        return Bound(size, flops, memory, compute, max(memory, compute))


def base(dtype: str) -> str:
    """What stands beside quantized weights, and holds keys and values unless told otherwise."""
    return "fp16" if dtype in QUANTIZED else dtype


def dtype_named(name: str) -> str:
    """torch's or vLLM's name of a dtype or quantization -> one of BYTES. Raises UserError for another."""
    plain = str(name).removeprefix("torch.")
    found = plain if plain in BYTES else next((ours for theirs, ours in NAMES.items() if plain.startswith(theirs)), None)
    if found is None:
        raise UserError(f"limit unknown, because the size of a weight in {plain!r} is not known (known: {', '.join(BYTES)})")
    return found


def read(config: dict, name: str = "the model", processor: pixels.Processor = pixels.Processor()) -> Model:
    """A config.json -> Model: decoders with gated MLPs and grouped-query attention, dense or mixtures of experts, and the
    vision tower of Qwen3-VL. Raises UserError, beginning "limit unknown, because", for what it cannot count."""
    text = config.get("text_config", config)
    family = str(config.get("model_type", "")).removesuffix("_text")
    if family not in FAMILIES:
        raise UserError(f"limit unknown, because {name} is a {family or 'nameless'!r} model and the weights of these can be "
                        f"counted: {', '.join(FAMILIES)}")
    hidden, layers, heads, inner, vocabulary = _whole(text, name, "hidden_size", "num_hidden_layers", "num_attention_heads",
                                                      "intermediate_size", "vocab_size")
    kv_heads, head_dim = text.get("num_key_value_heads") or heads, text.get("head_dim") or hidden // heads
    q, kv, bias = heads * head_dim, kv_heads * head_dim, bool(text.get("attention_bias")) and family != "mistral"
    small = layers * 2 * hidden + hidden  # norms
    small += layers * ((q + 2 * kv) * (bias or family == "qwen2") + hidden * bias)
    small += layers * 2 * head_dim * family.startswith("qwen3")  # norms of queries and keys
    small += layers * (2 * inner + hidden) * bool(text.get("mlp_bias") and family == "llama")
    attention, dense = 2 * hidden * q + 2 * hidden * kv, 3 * hidden * inner
    experts = text.get("num_experts", text.get("num_local_experts")) or 0
    stored = active = layers * attention
    for layer in range(layers):
        if experts and layer not in (text.get("mlp_only_layers") or ()) and (layer + 1) % text.get("decoder_sparse_step", 1) == 0:
            used, = _whole(text, name, "num_experts_per_tok")
            one, router = 3 * hidden * (text.get("moe_intermediate_size") or inner), hidden * experts
            stored, active = stored + experts * one + router, active + used * one + router
        else:
            stored, active = stored + dense, active + dense
    tied = bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))
    window = text.get("sliding_window") if text.get("use_sliding_window", family in ("mistral", "mixtral")) else None
    tower = _vision(config["vision_config"], name, processor) if family.startswith("qwen3_vl") and "vision_config" in config else None
    return Model(name, stored, active, small, vocabulary * hidden, tied, layers, heads, kv_heads, head_dim, window, tower)


def _vision(config: dict, name: str, processor: pixels.Processor) -> Vision:
    """Qwen3-VL's tower: patches, learned places, blocks, a merger, and one more for each level that is handed to the
    decoder (DeepStack). Checked against transformers' own counts in tests/test_limits.py."""
    hidden, depth, inner, patch, out, places = _whole(config, f"{name}'s vision tower", "hidden_size", "depth", "intermediate_size",
                                                      "patch_size", "out_hidden_size", "num_position_embeddings")
    merge, frames, colours = (config.get(key, usual) for key, usual in
                              (("spatial_merge_size", 2), ("temporal_patch_size", 2), ("in_channels", 3)))
    merged, mergers = hidden * merge**2, 1 + len(config.get("deepstack_visual_indexes", ()))
    patches, block = colours * frames * patch**2 * hidden, 4 * hidden**2 + 2 * hidden * inner
    merger = merged**2 + merged * out
    small = hidden + places * hidden + depth * (4 * hidden + 4 * hidden + inner + hidden)  # norms; biases
    small += 2 * hidden + (mergers - 1) * 2 * merged + mergers * (merged + out)
    return Vision(patches + depth * block, mergers * merger, patches + depth * block + mergers * merger + small, depth, hidden, processor)


def _whole(config: dict, name: str, *keys: str) -> list[int]:
    for key in keys:
        if type(config.get(key)) is not int or config[key] < 1:
            raise UserError(f"limit unknown, because the config.json of {name} gives no usable {key!r} ({config.get(key)!r})")
    return [config[key] for key in keys]
