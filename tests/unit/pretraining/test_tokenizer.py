import pytest
from transformers import CLIPTokenizer

from fashiondpo.outfits.mini import CATEGORIES
from fashiondpo.pretraining.bundle import mini_sentences, mini_tokenizer
from fashiondpo.pretraining.tokenizer import CONTEXT_LENGTH, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return mini_tokenizer(CATEGORIES)


class TestTrainTokenizer:
    def test_gives_every_sentence_back(self, tokenizer):
        for sentence in mini_sentences(CATEGORIES):
            ids = tokenizer(sentence).input_ids
            spaceless = tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "")
            assert spaceless == sentence.lower().replace(" ", "")

    def test_cuts_none_of_its_sentences(self, tokenizer):
        assert max(len(ids) for ids in tokenizer(mini_sentences(CATEGORIES)).input_ids) <= CONTEXT_LENGTH

    def test_begins_and_ends_every_sentence(self, tokenizer):
        ids = tokenizer("a photo of a dress").input_ids
        assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert ids.count(tokenizer.eos_token_id) == 1

    def test_ends_with_its_highest_id_as_clip_expects(self, tokenizer):
        assert tokenizer.eos_token_id == len(tokenizer) - 1 == max(tokenizer.get_vocab().values())

    @pytest.mark.parametrize("word", ["zyzzyva", "röcke", "ドレス", "🙂"])
    def test_spells_words_that_it_never_saw(self, tokenizer, word):
        ids = tokenizer(word).input_ids[1:-1]
        assert ids and tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids).strip() == word

    def test_does_not_care_about_capitals(self, tokenizer):
        assert tokenizer("A Photo").input_ids == tokenizer("a photo").input_ids

    def test_is_the_same_every_time(self, tokenizer):
        assert mini_tokenizer(CATEGORIES).get_vocab() == tokenizer.get_vocab()

    def test_comes_back_from_disk(self, tokenizer, tmp_path):
        tokenizer.save_pretrained(tmp_path)
        again = CLIPTokenizer.from_pretrained(tmp_path)
        sentences = ["A photo of a pair of ankle boots, on white background, high quality", "ドレス 42"]
        assert again(sentences).input_ids == tokenizer(sentences).input_ids
        assert again.model_max_length == CONTEXT_LENGTH

    def test_a_word_seen_often_is_one_token(self):
        tokenizer = train_tokenizer(["dress"] * 50, vocabulary=600)
        assert len(tokenizer("dress").input_ids) == 3  # with start and end
