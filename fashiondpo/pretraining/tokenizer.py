"""A small CLIP tokenizer, trained on the sentences the mini models ever see."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

CONTEXT_LENGTH = 24
_WORD = Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
_END_OF_WORD = "</w>"


def train_tokenizer(sentences: Iterable[str], *, vocabulary: int = 896) -> CLIPTokenizer:
    """Byte-pair encoding over these sentences, in the format of CLIP's tokenizer.

    Every byte is in the vocabulary, so other words are spelled out and never unknown. The end-of-text token has the
    highest id, because CLIP's pooling looks for it there.

    Args:
        sentences: the corpus.
        vocabulary: size before the two special tokens.
    """
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=_END_OF_WORD, unk_token="<|endoftext|>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_WORD, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    closing = [character + _END_OF_WORD for character in characters]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=characters,
        end_of_word_suffix=_END_OF_WORD,
        special_tokens=closing,  # else numbered in the order of a hash table, which decides between equal pairs
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(sentences), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocab: dict[str, int] = model["vocab"]
    for token in ("<|startoftext|>", "<|endoftext|>"):
        vocab[token] = len(vocab)
    merges = [tuple(merge) for merge in model["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CONTEXT_LENGTH)
