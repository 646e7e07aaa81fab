"""Every task class of transformers, built on the meta device with a short configuration."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.models.auto import modeling_auto

# Fields that say how many layers there are, whatever a configuration calls them.
DEPTHS = (
    *("num_hidden_layers", "num_layers", "n_layer", "n_layers"),
    *("encoder_layers", "decoder_layers", "num_encoder_layers", "num_decoder_layers"),
)
# What some classes need beyond that.
NEEDED: dict[str, dict[str, Any]] = {
    "MinistralConfig": {"head_dim": 128},
    "NemotronConfig": {"num_key_value_heads": 8},
    "HunYuanDenseV1Config": {"head_dim": 128},
    "HunYuanMoEV1Config": {"head_dim": 128},
    "EsmConfig": {"vocab_size": 33, "pad_token_id": 1},
    "PerceiverConfig": {"num_cross_attention_heads": 1},
    "CohereCompassTextConfig": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4} for kind in ("full_attention", "sliding_attention")
        }
    },
    "BeitConfig": {"num_hidden_layers": 4, "out_indices": [1, 2, 3, 4]},
    "GPTNeoConfig": {"attention_types": [[["global", "local"], 1]]},
    "ZambaConfig": {"num_hidden_layers": 32},
    "Zamba2Config": {"num_hidden_layers": 54},
    "Wav2Vec2BertConfig": {"vocab_size": 32},
    "Wav2Vec2ConformerConfig": {"vocab_size": 32},
    "Sapiens2Config": {"head_config": {"upsample_out_channels": [8], "conv_out_channels": [8]}},
}
# Classes that can't be built here, and why. The list may only shrink.
UNBUILDABLE = {
    "LayoutLMv2ForQuestionAnswering": "needs detectron2",
    "LayoutLMv2ForSequenceClassification": "needs detectron2",
    "LayoutLMv2ForTokenClassification": "needs detectron2",
    "DinatForImageClassification": "needs natten",
    "TimmWrapperForImageClassification": "needs timm",
}
TASKS = (
    *("SEQUENCE_CLASSIFICATION", "TOKEN_CLASSIFICATION", "MULTIPLE_CHOICE", "NEXT_SENTENCE_PREDICTION"),
    *("QUESTION_ANSWERING", "DOCUMENT_QUESTION_ANSWERING", "TABLE_QUESTION_ANSWERING", "VISUAL_QUESTION_ANSWERING"),
    *("IMAGE_CLASSIFICATION", "VIDEO_CLASSIFICATION", "SEMANTIC_SEGMENTATION"),
    *("AUDIO_CLASSIFICATION", "AUDIO_FRAME_CLASSIFICATION", "AUDIO_XVECTOR", "CTC"),
    *("TIME_SERIES_CLASSIFICATION", "TIME_SERIES_REGRESSION"),
)


@dataclasses.dataclass(frozen=True)
class Listed:
    """A class of a task's table, and the configuration that the table gives it."""

    name: str
    model_type: str

    def build(self) -> PreTrainedModel:
        kind = getattr(transformers, self.name)
        config = CONFIG_MAPPING[self.model_type]
        # Two tables list a class under another model's type.
        config = config if issubclass(config, kind.config_class) else kind.config_class
        with torch.device("meta"), torch.random.fork_rng(devices=[]), no_init_weights():
            return kind(short(config))


def short(kind: type) -> Any:
    known = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: 2 for name in DEPTHS if name in known} | NEEDED.get(kind.__name__, {}))


def listed(*tasks: str) -> dict[str, Listed]:
    """The classes of these tasks' tables, by name."""
    found = {}
    for task in tasks:
        table = getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES")
        for model_type, names in table.items():
            for name in [names] if isinstance(names, str) else names:
                found.setdefault(name, Listed(name, model_type))
    return found
