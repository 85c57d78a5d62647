"""Subtitles: their files, a text encoder on them, hashed words."""

from __future__ import annotations

from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
from checkpoints import class_tokens
from clips import pictures, write_frames, write_srt
from conftest import Run
from transformers import AutoTokenizer, RobertaModel

from viper.encoders.hashed_words import HashedWordsEncoder
from viper.encoders.words import SentenceModel
from viper.engine.device import Runtime
from viper.errors import ClipError
from viper.media.subtitles import Cue, read_cues
from viper.store import FeatureStore

CPU = Runtime(torch.device("cpu"))


def test_padding_and_neighbours_do_not_change_a_sentences_embedding(roberta: Path) -> None:
    model = SentenceModel(str(roberta), CPU)
    sentences = ["no", "a much longer sentence, about a person who laughs at something", "", "wait for it"]
    expected = class_tokens(roberta, sentences)
    for batch_size in (1, 2, 64):
        np.testing.assert_allclose(model.embed(sentences, batch_size), expected, atol=1e-5)
    assert np.abs(expected[0] - expected[3]).max() > 0.1


def test_a_sentence_longer_than_the_models_positions_is_cut(roberta: Path) -> None:
    model = SentenceModel(str(roberta), CPU)
    long = "laughs and laughs " * 100
    tokens = AutoTokenizer.from_pretrained(roberta)(long, truncation=True, max_length=64, return_tensors="pt")
    with torch.inference_mode():
        expected = RobertaModel.from_pretrained(roberta).eval()(**tokens).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(model.embed([long], 8), expected, atol=1e-5)


def test_a_text_model_without_a_pooler_is_the_same_encoder_each_time(roberta: Path, tmp_path: Path) -> None:
    lacking = checkpoints.copy_with(roberta, tmp_path / "lacking", checkpoints.without("pooler"))
    assert SentenceModel(str(lacking), CPU).options == SentenceModel(str(roberta), CPU).options


def test_cues_are_in_order_without_markup_and_without_empty_ones(tmp_path: Path) -> None:
    path = tmp_path / "clip.srt"
    path.write_text(
        "1\n00:00:02,500 --> 00:00:03,500\n<i>Second</i>\nline\n\n"
        "2\n00:00:00,250 --> 00:00:01,250\n{\\an8}First\n\n"
        "3\n00:00:04,000 --> 00:00:05,000\n<b></b>\n",
        encoding="utf-8",
    )
    assert read_cues(path) == [Cue(0.25, 1.25, "First"), Cue(2.5, 3.5, "Second line")]


def test_webvtt_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "clip.vtt"
    path.write_text(
        "WEBVTT\n\nNOTE made by hand\n\nintro\n00:01.000 --> 00:02.000 align:start\n<v Ann>Oh <c.loud>no</c></v>\n\n"
        "01:00:03.500 --> 01:00:04.500\nan hour later\n",
        encoding="utf-8",
    )
    assert read_cues(path) == [Cue(1.0, 2.0, "Oh no"), Cue(3603.5, 3604.5, "an hour later")]


def test_subtitles_in_the_other_encoding_or_with_a_byte_order_mark(tmp_path: Path) -> None:
    text = "1\r\n00:00:00,000 --> 00:00:01,000\r\nça va… «oui»\r\n"
    for name, encoding in (("old.srt", "cp1252"), ("marked.srt", "utf-8-sig"), ("wide.srt", "utf-16")):
        (tmp_path / name).write_bytes(text.encode(encoding))
        assert [cue.text for cue in read_cues(tmp_path / name)] == ["ça va… «oui»"]


def test_entities_are_the_characters_they_stand_for(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nsalt &amp; pepper\n")
    assert [cue.text for cue in read_cues(tmp_path / "a.srt")] == ["salt & pepper"]


def test_a_file_without_words_has_none_and_one_with_words_but_no_cue_fails(tmp_path: Path) -> None:
    for name, content in (("empty.srt", "\n \n"), ("head.vtt", "WEBVTT\n\nNOTE nothing\n")):
        (tmp_path / name).write_text(content)
        assert read_cues(tmp_path / name) == []
    for name, content in (("no.srt", bytes(range(256)) * 4), ("no.vtt", b"there is no arrow in here")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ClipError, match=f"{name}: has words, but no cue"):
            read_cues(tmp_path / name)


def test_youtubes_words_with_times_come_once_and_without_stamps(tmp_path: Path) -> None:
    (tmp_path / "a.vtt").write_text(
        "WEBVTT\n\n00:00:00.160 --> 00:00:02.389 align:start position:0%\n \nhello<00:00:00.480><c> you</c>"
        "<00:00:00.900><c> and</c>\n\n00:00:02.389 --> 00:00:02.399 align:start position:0%\nhello you and\n \n\n"
        "00:00:02.399 --> 00:00:04.000 align:start position:0%\nhello you and\nyeah\n"
    )
    assert read_cues(tmp_path / "a.vtt") == [Cue(0.16, 2.389, "hello you and"), Cue(2.399, 4.0, "yeah")]


def test_an_encoding_is_told_from_three_lines_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for encoding, said in (("cp1251", "Я не знаю, что тебе сказать."), ("big5", "我不知道該對你說什麼。我們等了你。")):
        (tmp_path / "a.srt").write_bytes(f"1\n00:00:00,000 --> 00:00:01,000\n{said}\n".encode(encoding))
        assert [cue.text for cue in read_cues(tmp_path / "a.srt")] == [said]
    assert "a.srt: read as cp1251" in caplog.text


def test_the_same_words_are_hashed_to_the_same_unit_vector() -> None:
    encoder = HashedWordsEncoder()
    texts = ["Oh no, not again!", "again: not OH NO", "what a lovely day", "what"]
    cues = [Cue(i, i + 1, text) for i, text in enumerate(texts)]
    (feature,) = encoder.encode([encoder.load(cues)], 64)
    assert feature.tokens.shape == (4, 256)
    np.testing.assert_allclose(np.linalg.norm(feature.tokens, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(feature.tokens[0], feature.tokens[1])
    assert abs(feature.tokens[0] @ feature.tokens[2]) < 0.3
    assert feature.tokens[2] @ feature.tokens[3] > 0.4  # one word of four
    np.testing.assert_allclose(feature.time, [0.5, 1.5, 2.5, 3.5])


@pytest.mark.parametrize("model", ["hashed", "roberta"])
def test_the_command_on_subtitles(roberta: Path, tmp_path: Path, run: Run, model: str) -> None:
    for name in ("1", "2", "3"):
        write_frames(tmp_path / "frames" / name, pictures(1))
    write_srt(tmp_path / "subs" / "1.srt", [(0, 1, "oh no"), (2, 3, "what a day")])
    (tmp_path / "subs" / "2.srt").write_text("")
    write_srt(tmp_path / "subs" / "elsewhere.srt", [(0, 1, "not in the input folder")])
    outcome = run(
        "extract_textual_features", "--input_folder", tmp_path / "frames", "--output_folder", tmp_path / "out",
        "--subtitles", tmp_path / "subs", "--model_name", roberta if model == "roberta" else model, "--batch_size", 1,
        "--precision", "float32",
    )  # fmt: skip
    assert outcome.code == 0, outcome.said
    store = FeatureStore.open(tmp_path / "out")
    assert (store.info.modality, store.info.source) == ("textual", "subtitles")
    assert store.clips() == ["1", "2", "3"]
    feature = store.read("1")
    np.testing.assert_allclose(feature.time, [0.5, 2.5])
    assert feature.mask.all()
    if model == "roberta":
        np.testing.assert_allclose(feature.tokens, class_tokens(roberta, ["oh no", "what a day"]), atol=1e-5)
    for name in ("2", "3"):
        assert store.read(name).mask.tolist() == [False]
        assert [line for line in outcome.said.splitlines() if f"{name}: no subtitles" in line]
