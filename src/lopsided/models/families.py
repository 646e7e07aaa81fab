"""Families of models: the architectures that the registry knows, and a tiny random twin of each.

A twin has the architecture of its family and none of its knowledge: two layers, random weights, and a tokenizer of
single bytes or an image processor. It is saved in a folder like any model, so that every step from loading to export
can be tried in seconds, without a network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import CONFIG_MAPPING, PreTrainedTokenizerFast, ViTImageProcessorPil

# Of a twin. More positions than any tiny task has tokens.
WIDTH, LAYERS, HEADS, POSITIONS, PIXELS = 32, 2, 2, 256, 16
READS, WRITES = ("classification", "regression"), ("generation", "choice")


@dataclass(frozen=True, kw_only=True)
class Words:
    """What a twin's tokenizer writes around a text.

    Args:
        special: the special tokens by their role in transformers, in the order of their ids.
        single, pair: the template around one text, and around two.
    """

    special: Mapping[str, str]
    single: str
    pair: str


@dataclass(frozen=True, kw_only=True)
class Family:
    """An architecture of transformers.

    Args:
        type: transformers' `model_type`, which names the configuration.
        twin_class: transformers' class that a twin is saved as.
        targets: the names of the query's and the value's layers, which the papers adapt.
        kinds: the kinds of task that it can learn.
        modality: what it reads, "text" or "image".
        twin_sizes: the configuration of a twin.
        words: of a twin's tokenizer; None for a family that reads images.
        fixed: settings of the configuration that all models of the family share, its twin included.
    """

    type: str
    twin_class: str
    targets: tuple[str, ...]
    kinds: tuple[str, ...]
    twin_sizes: Mapping[str, Any]
    words: Words | None = None
    modality: str = "text"
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def config(self, sizes: Mapping[str, Any]) -> Any:
        """Return transformers' configuration of a model of this family with these sizes."""
        return CONFIG_MAPPING[self.type](**{**self.fixed, **sizes})

    def write_twin(self, folder: Path, *, seed: int = 0) -> None:
        """Write a tiny random model of the family, with its tokenizer or image processor, into a folder.

        Args:
            folder: made if it is not there.
            seed: of the weights; the same one gives the same bits.
        """
        build: Callable[[Any], Any] = getattr(transformers, self.twin_class)
        sizes: dict[str, Any] = dict(self.twin_sizes)
        if self.words is None:
            ViTImageProcessorPil(size={"height": PIXELS, "width": PIXELS}).save_pretrained(folder)
        else:
            tokenizer = _byte_tokenizer(self.words)
            roles = self.words.special
            sizes["vocab_size"] = len(tokenizer)
            # As in the family's own models: a role that has no token has no id.
            sizes |= {f"{name}_id": tokenizer.convert_tokens_to_ids(roles[name]) for name in _IDS & roles.keys()}
            tokenizer.save_pretrained(folder)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            build(self.config(sizes)).save_pretrained(folder)


_IDS = {"bos_token", "eos_token", "pad_token"}


def _byte_tokenizer(words: Words) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose tokens are the 256 bytes, after the special ones."""
    special = list(dict.fromkeys(words.special.values()))
    ids = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(ids, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = TemplateProcessing(
        single=words.single, pair=words.pair, special_tokens=[(token, ids[token]) for token in special]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=POSITIONS, **words.special)


_BERT_WORDS = Words(
    special={
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    },
    single="[CLS] $A [SEP]",
    pair="[CLS] $A [SEP] $B:1 [SEP]:1",
)
_BART_WORDS = Words(
    special={
        "bos_token": "<s>",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
        "cls_token": "<s>",
        "sep_token": "</s>",
    },
    single="<s> $A </s>",
    pair="<s> $A </s> </s> $B </s>",
)
_LLAMA_WORDS = Words(
    special={"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}, single="<s> $A", pair="<s> $A <s> $B"
)
_GPT2_WORDS = Words(
    special={"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
    single="$A",
    pair="$A $B",
)
_ENCODER = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 2 * WIDTH,
    # As wide as a trained model's weights are next to its width: at 0.02 a model this narrow hardly sees its input.
    "initializer_range": 0.2,
}
_IMAGES = {**_ENCODER, "image_size": PIXELS, "patch_size": PIXELS // 2}

# One more architecture is one more entry; `test_families.py` then takes it through all that a model goes through.
FAMILIES: dict[str, Family] = {
    "bert": Family(
        type="bert",
        twin_class="BertModel",
        targets=("query", "value"),
        kinds=READS,
        twin_sizes={**_ENCODER, "max_position_embeddings": POSITIONS},
        words=_BERT_WORDS,
    ),
    "roberta": Family(
        type="roberta",
        twin_class="RobertaModel",
        targets=("query", "value"),
        kinds=READS,
        # Its positions are counted from behind the pad token's id.
        twin_sizes={**_ENCODER, "max_position_embeddings": POSITIONS + 2},
        words=_BART_WORDS,
        fixed={"type_vocab_size": 1, "layer_norm_eps": 1e-5},
    ),
    "deberta-v2": Family(
        type="deberta-v2",
        twin_class="DebertaV2Model",
        targets=("query_proj", "value_proj"),
        kinds=READS,
        twin_sizes={
            **_ENCODER,
            "max_position_embeddings": POSITIONS,
            "position_buckets": 16,
            "pooler_hidden_size": WIDTH,
        },
        words=_BERT_WORDS,
        fixed={
            "relative_attention": True,
            "position_biased_input": False,
            "pos_att_type": ["p2c", "c2p"],
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "type_vocab_size": 0,
        },
    ),
    "vit": Family(
        type="vit",
        twin_class="ViTForImageClassification",
        targets=("q_proj", "v_proj"),
        kinds=("classification",),
        modality="image",
        twin_sizes=_IMAGES,
    ),
    "deit": Family(
        type="deit",
        twin_class="DeiTForImageClassification",
        targets=("q_proj", "v_proj"),
        kinds=("classification",),
        modality="image",
        twin_sizes=_IMAGES,
    ),
    "gpt2": Family(
        type="gpt2",
        twin_class="GPT2LMHeadModel",
        # One layer holds query, key and value, and is adapted as a whole: the papers split it and leave the key out.
        targets=("c_attn",),
        kinds=(*READS, *WRITES),
        twin_sizes={
            "n_embd": WIDTH,
            "n_layer": LAYERS,
            "n_head": HEADS,
            "n_positions": POSITIONS,
            "initializer_range": 0.2,
        },
        words=_GPT2_WORDS,
    ),
    "llama": Family(
        type="llama",
        twin_class="LlamaForCausalLM",
        targets=("q_proj", "v_proj"),
        kinds=(*READS, *WRITES),
        twin_sizes={**_ENCODER, "num_key_value_heads": 1, "max_position_embeddings": POSITIONS},
        words=_LLAMA_WORDS,
    ),
    "bart": Family(
        type="bart",
        twin_class="BartForConditionalGeneration",
        targets=("q_proj", "v_proj"),
        kinds=(*READS, "generation"),
        twin_sizes={
            "d_model": WIDTH,
            "encoder_layers": LAYERS,
            "decoder_layers": LAYERS,
            "encoder_attention_heads": HEADS,
            "decoder_attention_heads": HEADS,
            "encoder_ffn_dim": 2 * WIDTH,
            "decoder_ffn_dim": 2 * WIDTH,
            "max_position_embeddings": POSITIONS,
            "init_std": 0.2,
        },
        words=_BART_WORDS,
        fixed={"decoder_start_token_id": 2},
    ),
}
