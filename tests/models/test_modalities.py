"""Models whose main input is not token ids: forward, training and generate, as stock PEFT's plain model does them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers as T
from peft import LoraConfig, PeftModel, get_peft_model

import lopsided

Batch = dict[str, torch.Tensor]
TEXT = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 3, "eos_token_id": 1}
NARROW = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
SPEECH = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "decoder_start_token_id": 3,
}
WAVES = {**NARROW, "conv_dim": (16, 16), "conv_stride": (4, 4), "conv_kernel": (8, 8), "num_feat_extract_layers": 2}
WAVES |= {
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
    "vocab_size": 64,
}
IMAGES = {"image_size": 16, "patch_size": 8}
ids = torch.tensor([[5, 6, 7, 8]])
generator = torch.Generator().manual_seed(0)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator)


@dataclass(frozen=True)
class Case:
    """A model, a batch that it learns from, what it generates from, and its attention's modules."""

    build: Callable[[], Any]
    batch: Batch
    prompt: Batch | None = None
    targets: tuple[str, ...] = ("q_proj",)


def whisper() -> Any:
    sizes = {"num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 32}
    return T.WhisperForConditionalGeneration(T.WhisperConfig(**TEXT, **SPEECH, **sizes))


def whisper_classifier() -> Any:
    sizes = {"num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 32, "classifier_proj_size": 16}
    return T.WhisperForAudioClassification(T.WhisperConfig(**TEXT, **SPEECH, **sizes, num_labels=3))


def speech_to_text() -> Any:
    sizes = {"input_feat_per_channel": 8, "num_conv_layers": 1, "conv_kernel_sizes": (3,), "conv_channels": 16}
    config = T.Speech2TextConfig(**TEXT, **SPEECH, **sizes, max_source_positions=40, max_target_positions=32)
    return T.Speech2TextForConditionalGeneration(config)


def moonshine() -> Any:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "encoder_num_hidden_layers": 1, "decoder_num_hidden_layers": 1}
    heads = {"encoder_num_attention_heads": 4, "decoder_num_attention_heads": 4}
    config = T.MoonshineConfig(**TEXT, **sizes, **heads, decoder_start_token_id=3)
    return T.MoonshineForConditionalGeneration(config)


def pix2struct() -> Any:
    text = {"hidden_size": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4, "decoder_start_token_id": 0}
    vision = {"hidden_size": 32, "patch_embed_hidden_size": 12, "d_ff": 64, "d_kv": 8, "seq_len": 8}
    config = T.Pix2StructConfig(
        text_config={**text, "vocab_size": 64},
        vision_config={**vision, "num_hidden_layers": 1, "num_attention_heads": 4},
    )
    return T.Pix2StructForConditionalGeneration(config)


def blip() -> Any:
    text = {**NARROW, **TEXT, "encoder_hidden_size": 32, "sep_token_id": 1, "max_position_embeddings": 32}
    return T.BlipForConditionalGeneration(T.BlipConfig(text_config=text, vision_config={**NARROW, **IMAGES}))


def llava() -> Any:
    text = {**NARROW, **TEXT, "model_type": "llama", "num_key_value_heads": 4}
    vision = {**NARROW, **IMAGES, "model_type": "clip_vision_model", "projection_dim": 32}
    config = T.LlavaConfig(text_config=text, vision_config=vision, image_token_index=9, vision_feature_layer=-1)
    return T.LlavaForConditionalGeneration(config)


def vision_encoder_decoder() -> Any:
    decoder = T.BertConfig(**NARROW, **TEXT, is_decoder=True, add_cross_attention=True)
    config = T.VisionEncoderDecoderConfig.from_encoder_decoder_configs(T.ViTConfig(**NARROW, **IMAGES), decoder)
    config.pad_token_id, config.decoder_start_token_id = 0, 3
    return T.VisionEncoderDecoderModel(config)


def speech_encoder_decoder() -> Any:
    decoder = T.BertConfig(**NARROW, **TEXT, is_decoder=True, add_cross_attention=True)
    config = T.SpeechEncoderDecoderConfig.from_encoder_decoder_configs(T.Wav2Vec2Config(**WAVES), decoder)
    config.pad_token_id, config.decoder_start_token_id = 0, 3
    return T.SpeechEncoderDecoderModel(config)


def encoder_decoder() -> Any:
    decoder = T.BertConfig(**NARROW, **TEXT, is_decoder=True, add_cross_attention=True)
    config = T.EncoderDecoderConfig.from_encoder_decoder_configs(T.BertConfig(**NARROW, **TEXT), decoder)
    config.pad_token_id, config.decoder_start_token_id = 0, 3
    return T.EncoderDecoderModel(config)


def time_series() -> Any:
    config = T.TimeSeriesTransformerConfig(
        prediction_length=2, context_length=4, num_time_features=1, lags_sequence=[1], **{**SPEECH, "d_model": 16}
    )
    return T.TimeSeriesTransformerForPrediction(config)


def clip() -> Any:
    text = {**NARROW, **TEXT, "max_position_embeddings": 16, "projection_dim": 32}
    vision = {**NARROW, **IMAGES, "projection_dim": 32}
    return T.CLIPModel(T.CLIPConfig(text_config=text, vision_config=vision, projection_dim=32))


features, waves, pixels = draw(1, 8, 40), draw(1, 1600), draw(1, 3, 16, 16)
pair = torch.tensor([[3, 5, 6, 1], [3, 7, 8, 1]])
seen = ids.new_tensor([[9] * 4 + [5, 6]])
past = {
    "past_values": torch.ones(1, 5),
    "past_time_features": torch.ones(1, 5, 1),
    "past_observed_mask": torch.ones(1, 5),
}
CASES = {
    "whisper": Case(whisper, {"input_features": features, "labels": ids}, {"input_features": features}),
    "whisper_classifier": Case(whisper_classifier, {"input_features": features, "labels": torch.tensor([2])}),
    "speech_to_text": Case(
        speech_to_text,
        {"input_features": features.transpose(1, 2), "labels": ids},
        {"input_features": features.transpose(1, 2)},
    ),
    "moonshine": Case(moonshine, {"input_values": waves, "labels": ids}, {"input_values": waves}),
    "wav2vec2_classifier": Case(
        lambda: T.Wav2Vec2ForSequenceClassification(T.Wav2Vec2Config(**WAVES, num_labels=3)),
        {"input_values": waves, "labels": torch.tensor([2])},
    ),
    "wav2vec2_ctc": Case(lambda: T.Wav2Vec2ForCTC(T.Wav2Vec2Config(**WAVES)), {"input_values": waves, "labels": ids}),
    "pix2struct": Case(
        pix2struct,
        {"flattened_patches": torch.ones(1, 6, 14), "labels": ids},
        {"flattened_patches": torch.ones(1, 6, 14)},
        ("query",),
    ),
    "blip": Case(
        blip, {"pixel_values": pixels, "input_ids": ids, "labels": ids}, {"pixel_values": pixels}, ("query", "qkv")
    ),
    "llava": Case(
        llava,
        {"input_ids": seen, "pixel_values": pixels, "labels": seen},
        {"input_ids": seen, "pixel_values": pixels},
    ),
    "vision_encoder_decoder": Case(
        vision_encoder_decoder, {"pixel_values": pixels, "labels": ids}, {"pixel_values": pixels}, ("query", "q_proj")
    ),
    "speech_encoder_decoder": Case(
        speech_encoder_decoder, {"input_values": waves, "labels": ids}, {"inputs": waves}, ("query", "q_proj")
    ),
    "encoder_decoder": Case(encoder_decoder, {"input_ids": ids, "labels": ids}, {"input_ids": ids}, ("query",)),
    "vit": Case(
        lambda: T.ViTForImageClassification(T.ViTConfig(**NARROW, **IMAGES, num_labels=3)),
        {"pixel_values": pixels, "labels": torch.tensor([2])},
    ),
    "videomae": Case(
        lambda: T.VideoMAEForVideoClassification(T.VideoMAEConfig(**NARROW, **IMAGES, num_frames=2, num_labels=3)),
        {"pixel_values": draw(1, 2, 3, 16, 16), "labels": torch.tensor([2])},
        targets=("query",),
    ),
    "clip": Case(clip, {"input_ids": pair, "pixel_values": draw(2, 3, 16, 16), "return_loss": True}),
    "patchtst": Case(
        lambda: T.PatchTSTForPrediction(
            T.PatchTSTConfig(context_length=16, d_model=16, num_hidden_layers=1, ffn_dim=16, num_attention_heads=2)
        ),
        {"past_values": draw(1, 16, 1), "future_values": draw(1, 24, 1)},
        targets=("v_proj",),
    ),
    "time_series": Case(
        time_series,
        {**past, "future_values": torch.ones(1, 2), "future_time_features": torch.ones(1, 2, 1)},
        {**past, "future_time_features": torch.ones(1, 2, 1)},
    ),
}


def seeded(case: Case) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return case.build().eval()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_model_of_any_input_works_as_under_stock_peft(case, tmp_path):
    model = seeded(case)
    stock = get_peft_model(seeded(case), LoraConfig(r=4, target_modules=list(case.targets)))
    ours = lopsided.adapt(model, "cla", r=4, target_modules=list(case.targets))
    # Both start as the base model.
    stock.eval(), ours.eval()
    assert ours(**case.batch).loss.item() == pytest.approx(stock(**case.batch).loss.item(), rel=1e-5, nan_ok=False)
    if case.prompt is not None:
        assert same(ours.generate(**case.prompt, **length(case)), stock.generate(**case.prompt, **length(case)))
    optimizer = torch.optim.AdamW(lopsided.param_groups(ours, lr=1e-2))
    # Dropout and masks are drawn in training; the loss of one batch is compared in evaluation.
    before = ours(**case.batch).loss.item()
    for _ in range(3):
        ours(**case.batch).loss.backward()
        optimizer.step(), optimizer.zero_grad()
    after = ours(**case.batch).loss.item()
    assert after < before
    ours.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(seeded(case), tmp_path).eval()
    assert type(again) is type(ours)
    assert again(**case.batch).loss.item() == pytest.approx(after, rel=1e-5)


def length(case: Case) -> dict[str, Any]:
    return {} if "past_values" in case.batch else {"max_new_tokens": 4, "do_sample": False}


def same(ours: Any, stock: Any) -> bool:
    # A series is sampled: only its shape can be compared.
    if not isinstance(ours, torch.Tensor):
        return bool(ours.sequences.shape == stock.sequences.shape)
    return torch.equal(ours, stock)
