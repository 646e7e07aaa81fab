"""What each server takes of a LoRA adapter: the table `SERVERS`, with where each limit comes from.

A server is data. Another one is one more entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lopsided.errors import LopsidedError


@dataclass(frozen=True, kw_only=True)
class Server:
    """What a server takes.

    Args:
        title: its name in sentences.
        ranks: the ranks that it can be started for, in ascending order; None for any.
        default_rank: the highest rank that it takes without an option; None where it asks for none.
        rank_option: that option, with "{rank}".
        one_rank: whether it reads one rank and one scale for all layers, so that layers of several ranks would be
            scaled wrongly, or refused. Exports to it have one rank, and a scale of 1.
        shaped: whether it takes adapters on layers that are not linear.
        heads: whether it takes trained modules next to the factors: a task's head, embeddings, biases.
        transposed: whether it takes adapters on layers that store W as (d_in, d_out), as GPT-2's do.
        expression: whether `target_modules` may be a regular expression.
        modules: the last parts of the names of modules that it takes; None where its model's class decides.
        without: what to do with an adapter that it does not take.
        sources: where these facts stand.
    """

    title: str
    ranks: tuple[int, ...] | None = None
    default_rank: int | None = None
    rank_option: str = ""
    one_rank: bool = True
    shaped: bool = False
    heads: bool = False
    transposed: bool = True
    expression: bool = True
    modules: frozenset[str] | None = None
    without: str = "merge the adapter into its base and serve the whole model, or export it --for peft"
    sources: tuple[str, ...] = ()

    def served_rank(self, rank: int) -> int:
        """Return the lowest rank of this server that an adapter of a rank fits into.

        Raises:
            LopsidedError: if there is none.

        Example:
            >>> SERVERS["vllm"].served_rank(12), SERVERS["sglang"].served_rank(12)
            (16, 12)
        """
        if self.ranks is None:
            return rank
        served = [each for each in self.ranks if each >= rank]
        if not served:
            raise LopsidedError(
                f"{self.title} takes ranks up to {self.ranks[-1]}, got {rank}; recompress with --rank {self.ranks[-1]} "
                "or less"
            )
        return served[0]

    def check_rank(self, rank: int) -> None:
        """Raise for a rank that is asked for and that the server cannot be started for.

        Raises:
            LopsidedError: listing its ranks.
        """
        if rank < 1:
            raise LopsidedError(f"--rank must be at least 1, got {rank}; raise it")
        if self.ranks is not None and rank not in self.ranks:
            listed = ", ".join(map(str, self.ranks))
            raise LopsidedError(
                f"{self.title} can be started for ranks {listed}, got --rank {rank}; choose one of them"
            )

    def check_modules(self, names: Iterable[str], shaped: Iterable[str], *, transposed: bool | None) -> None:
        """Raise for adapted modules that the server does not take.

        Args:
            names: of the adapted modules.
            shaped: of those that are not linear layers.
            transposed: whether they store their weights as (d_in, d_out); None where that is not known.

        Raises:
            LopsidedError: naming one of them.
        """
        names, others = list(names), list(shaped)
        if others and not self.shaped:
            raise LopsidedError(
                f"exports to {self.title} are of linear layers; got {others[0]}, which is another kind; {self.without}"
            )
        unknown = [name for name in names if self.modules is not None and name.rpartition(".")[2] not in self.modules]
        if unknown:
            assert self.modules is not None
            raise LopsidedError(
                f"{self.title} takes adapters on modules named {', '.join(sorted(self.modules))}; got {unknown[0]}; "
                f"{self.without}"
            )
        if transposed and not self.transposed:
            raise LopsidedError(
                f"{self.title}'s converter transposes the factors of layers that store their weights as (d_in, d_out), "
                f"as {names[0]} does, and they would come out wrong; {self.without}"
            )

    def check_others(self, names: Iterable[str]) -> None:
        """Raise for trained tensors next to the factors where the server takes none.

        Raises:
            LopsidedError: naming the first.
        """
        others = sorted(names)
        if others and not self.heads:
            raise LopsidedError(
                f"{self.title} takes no trained heads, embeddings or biases next to an adapter; got {others[0]}"
                f"{f' and {len(others) - 1} more' if len(others) > 1 else ''}; {self.without}"
            )


SERVERS: Mapping[str, Server] = {
    "peft": Server(title="PEFT", one_rank=False, shaped=True, heads=True),
    "vllm": Server(
        title="vLLM",
        ranks=(1, 8, 16, 32, 64, 128, 256, 320, 512),
        default_rank=16,
        rank_option="--max-lora-rank {rank}",
        sources=(
            "vllm/config/lora.py: MaxLoRARanks, and LoRAConfig.max_lora_rank = 16",
            'vllm/lora/peft_helper.py: "vLLM only supports modules_to_save being None", r against max_lora_rank, and '
            "one scale lora_alpha/r for all layers: rank_pattern and alpha_pattern are not read",
            "vllm/lora/lora_model.py: names in the file end in lora_A.weight or lora_B.weight, on linear layers of "
            "the model's class; base_layer weights are passed over",
        ),
    ),
    "sglang": Server(
        title="SGLang",
        rank_option="--max-lora-rank {rank}",
        expression=False,
        modules=frozenset(
            (
                *(
                    "q_proj",
                    "k_proj",
                    "v_proj",
                    "qkv_proj",
                    "o_proj",
                    "out_proj",
                    "gate_proj",
                    "up_proj",
                    "gate_up_proj",
                ),
                *("down_proj", "in_proj", "q_a_proj", "kv_a_proj_with_mqa", "q_b_proj", "kv_b_proj", "embed_tokens"),
                "lm_head",
            )
        ),
        sources=(
            "python/sglang/srt/lora/utils.py: get_normalized_target_modules takes a list of names, of strings only "
            "'all' and 'all-linear'; _KNOWN_LORA_TARGET_MODULES",
            "python/sglang/srt/lora/lora_config.py: one r and one lora_alpha per adapter",
            "python/sglang/srt/lora/lora.py: the scale is lora_alpha/r; tensors of other names are kept and not used",
        ),
    ),
    "gguf": Server(
        title="llama.cpp",
        transposed=False,
        sources=(
            "llama.cpp, convert_lora_to_gguf.py: only lora_A.weight and lora_B.weight ('Not a lora_A or lora_B tensor' "
            "ends it); one adapter.lora.alpha from lora_alpha; use_rslora, rank_pattern and alpha_pattern are not read",
            "llama.cpp, src/llama-adapter.h: a layer's scale is alpha divided by its own rank",
            "llama.cpp, convert_hf_to_gguf.py: GPT-2's modify_tensors transposes c_attn, c_proj and c_fc, which stock "
            "LoRA holds as (d_out, d_in) already",
        ),
    ),
}
