"""A vision-language model of MiniCPM-V 4.6's real classes that answers in milliseconds: every part real, none trained."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    MiniCPMV4_6Config,
    MiniCPMV4_6ForConditionalGeneration,
    MiniCPMV4_6ImageProcessor,
    MiniCPMV4_6Processor,
    MiniCPMV4_6VideoProcessor,
    PreTrainedTokenizerFast,
)

from fashiondpo.judges.rubric import quality_rubric

SPECIAL = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image_pad|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
SIDE_PX, PATCH_PX = 56, 14


def tiny_tokenizer(*, merges: int = 200) -> PreTrainedTokenizerFast:
    """Byte pairs of the rubrics' own words; every byte is a token, so the labels are single ones."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + merges,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", *SPECIAL.values()],
        show_progress=False,
    )
    tokenizer.train_from_iterator([quality_rubric(5).prompt, quality_rubric(10).prompt], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens=SPECIAL,
        chat_template=CHAT_TEMPLATE,
    )


def tiny_processor(tokenizer: PreTrainedTokenizerFast) -> MiniCPMV4_6Processor:
    """Cuts pictures of more than 56 px into slices, as the real one does beyond 448."""
    sizes = {"scale_resolution": SIDE_PX, "patch_size": PATCH_PX, "max_slice_nums": 4}
    return MiniCPMV4_6Processor(
        image_processor=MiniCPMV4_6ImageProcessor(**sizes),
        video_processor=MiniCPMV4_6VideoProcessor(**sizes),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )


def tiny_config(tokenizer: PreTrainedTokenizerFast) -> MiniCPMV4_6Config:
    """Three layers of linear attention and one of full attention, as the real one alternates them."""
    return MiniCPMV4_6Config(
        text_config={
            "model_type": "qwen3_5_text",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE_PX,
            "patch_size": PATCH_PX,
        },
        insert_layer_id=0,
        image_size=SIDE_PX,
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
    )


def save_tiny_vlm(folder: Path, *, seed: int = 0) -> Path:
    """Weights, tokenizer and processor as a model hub has them; large random weights, so that pictures tell."""
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MiniCPMV4_6ForConditionalGeneration(tiny_config(tokenizer))
        _enlarge(model)
    model.save_pretrained(folder)
    tiny_processor(tokenizer).save_pretrained(folder)
    return folder


def save_tiny_llava(folder: Path, *, seed: int = 0) -> Path:
    """The same of LLaVA's classes: unlike MiniCPM-V's, they can be asked for one position, as servers do."""
    tokenizer = tiny_tokenizer()
    config = LlavaConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE_PX,
            "patch_size": PATCH_PX,
        },
        image_token_index=tokenizer.image_token_id,
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
    )
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": SIDE_PX}, crop_size={"height": SIDE_PX, "width": SIDE_PX}),
        tokenizer,
        patch_size=PATCH_PX,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=tokenizer.image_token,
        chat_template=CHAT_TEMPLATE,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
        _enlarge(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@torch.no_grad()
def _enlarge(model: torch.nn.Module) -> None:
    """Weights large enough that what a picture shows arrives at the last position."""
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and not name.endswith("conv1d.weight"):
            weight.normal_(0, weight.shape[-1] ** -0.5)
