"""Files that lie: what they declare is checked or not believed, and each costs one line at most.

The right answer, or one ClipError that names the file; never a crash, a hang or memory without bound.
"""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from clips import pictures, write_frames
from conftest import Run
from media import coded_frames, read_code, tone, write_coded

from viper.engine.failures import read_failures
from viper.errors import ClipError
from viper.media import sound as sound_module
from viper.media import video as video_module
from viper.media.pictures import FRAMES_FILE, FrameClip, frame_name, read_image
from viper.media.sampling import uniform_indices
from viper.media.sound import Sound, read_sound
from viper.media.video import VideoFrames, read_frames
from viper.store import FeatureStore

RATE = 16000
HUGE = 16_000
FOUR_HOURS = 4 * 3600
FPS = 25


def read(path: Path, n: int = 4) -> VideoFrames:
    return read_frames(path, lambda times: uniform_indices(len(times), n))


def codes(video: VideoFrames) -> list[int]:
    return [read_code(image) for image in video.images]


def refused(path: Path) -> str:
    """The one line that is said of a file that is no video."""
    with pytest.raises(ClipError) as error:
        read(path)
    message = str(error.value)
    assert message.startswith(f"{path.name}: ")
    assert len(message.splitlines()) == 1
    return message


def patch(path: Path, old: bytes, new: bytes, count: int = -1) -> Path:
    """Replaces bytes of a file; they must be there."""
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, count))
    return path


def patch_box(path: Path, box: bytes, offset: int, new: bytes) -> Path:
    """Overwrites bytes in the first box of that name of an mp4, so many after its name."""
    data = path.read_bytes()
    begin = data.index(box) + len(box) + offset
    path.write_bytes(data[:begin] + new + data[begin + len(new) :])
    return path


# --- videos whose header lies


@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv"])
def test_a_header_that_claims_four_hours(tmp_path: Path, suffix: str) -> None:
    path = write_coded(tmp_path / f"a.{suffix}", 50, FPS)
    if suffix == "mp4":
        for box, offset, ticks in ((b"mvhd", 16, 1000), (b"tkhd", 20, 1000), (b"mdhd", 16, 12800)):
            patch_box(path, box, offset, struct.pack(">I", FOUR_HOURS * ticks))
        patch_box(path, b"stts", 8, struct.pack(">I", FOUR_HOURS * FPS))
    elif suffix == "avi":
        patch_box(path, b"avih", 4 + 16, struct.pack("<I", FOUR_HOURS * FPS))
        patch_box(path, b"strh", 4 + 32, struct.pack("<I", FOUR_HOURS * FPS))
    else:
        patch(path, b"\x44\x89\x88" + struct.pack(">d", 2000), b"\x44\x89\x88" + struct.pack(">d", FOUR_HOURS * 1000))
    with av.open(str(path)) as container:
        assert (container.duration or 0) / av.time_base > 0.9 * FOUR_HOURS or suffix == "mp4"
    video = read(path)
    assert (video.n_frames, codes(video)) == (50, [0, 16, 33, 49])
    assert video.fps == pytest.approx(FPS, abs=0.01)
    np.testing.assert_allclose(video.times, np.array([0, 16, 33, 49]) / FPS, atol=0.001)


@pytest.mark.parametrize("n", [FOUR_HOURS * FPS, 2**31 - 5])
def test_a_table_of_more_frames_than_there_are(tmp_path: Path, n: int) -> None:
    sizes = patch_box(write_coded(tmp_path / "a.mp4", 50, FPS), b"stsz", 4, struct.pack(">II", 100, n))
    refused(sizes)
    refused(patch_box(write_coded(tmp_path / "b.mp4", 50, FPS), b"stsz", 8, struct.pack(">I", n)))


def mjpeg(path: Path, n: int = 5) -> Path:
    return write_coded(path, n, FPS, codec="mjpeg", pixel_format="yuvj420p")


SIZE_IN_AVI, SIZE_IN_JPEG = struct.pack("<II", 192, 64), struct.pack(">HH", 64, 192)
HUGE_IN_AVI, HUGE_IN_JPEG = struct.pack("<II", HUGE, HUGE), struct.pack(">HH", HUGE, HUGE)


def test_a_size_that_only_the_container_claims_is_not_believed(tmp_path: Path) -> None:
    path = patch(mjpeg(tmp_path / "a.avi"), SIZE_IN_AVI, HUGE_IN_AVI)
    assert codes(read(path)) == [0, 1, 3, 4]
    # In the same proportion: another one would be one of its pixels.
    path = patch(write_coded(tmp_path / "a.mp4", 5), struct.pack(">HH", 192, 64), struct.pack(">HH", 60_000, 20_000))
    assert codes(read(path)) == [0, 1, 3, 4]


def test_a_size_that_the_pictures_claim_is_not_decoded(tmp_path: Path) -> None:
    path = patch(mjpeg(tmp_path / "a.avi"), SIZE_IN_JPEG, HUGE_IN_JPEG)
    assert "no frame of its video" in refused(path)
    # All but the third: what can be decoded is.
    path = mjpeg(tmp_path / "b.avi")
    parts = path.read_bytes().split(SIZE_IN_JPEG)
    path.write_bytes(SIZE_IN_JPEG.join(parts[:3]) + HUGE_IN_JPEG + SIZE_IN_JPEG.join(parts[3:]))
    video = read(path)
    assert (video.n_frames, video.n_errors, codes(video)) == (4, 1, [0, 1, 3, 4])


def test_a_video_that_is_as_large_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_module, "MAX_PIXELS", 192 * 64 - 1)
    assert "its frames are 192x64; over 12,287 pixels are not decoded" in refused(write_coded(tmp_path / "a.mp4", 5))
    monkeypatch.undo()
    monkeypatch.setattr(video_module, "MAX_CLIP_PIXELS", 192 * 64 * 3)
    assert len(read(tmp_path / "a.mp4", 3).images) == 3
    assert "4 frames of 192x64 are too large together; take fewer frames" in refused(tmp_path / "a.mp4")


def gif(width: int, height: int) -> bytes:
    """One white pixel on a canvas of any size."""
    canvas = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return b"GIF89a" + canvas + b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00\x3b"


# --- videos of odd kinds


def test_frames_that_change_their_size_on_the_way(tmp_path: Path) -> None:
    data = b""
    for begin, scale in ((0, 1), (10, 2)):
        with av.open(str(tmp_path / "part.ts"), "w") as container:
            stream = container.add_stream("libx264", rate=FPS)
            stream.width, stream.height, stream.pix_fmt, stream.thread_count = 192 * scale, 64 * scale, "yuv420p", 1
            for number in range(begin, begin + 10):
                picture = np.kron(list(coded_frames(20))[number], np.ones((scale, scale, 1), np.uint8))
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        data += (tmp_path / "part.ts").read_bytes()
    (tmp_path / "a.ts").write_bytes(data)
    video = read(tmp_path / "a.ts", 20)
    assert [image.shape for image in video.images] == [(64, 192, 3)] * 10 + [(128, 384, 3)] * 10
    assert [read_code(cv2.resize(image, (192, 64))) for image in video.images] == list(range(20))
    np.testing.assert_allclose(np.diff(video.times), 1 / FPS, atol=0.001)


@pytest.mark.parametrize(("kind", "codec"), [("h264", "libx264"), ("m4v", "mpeg4"), ("mpeg2video", "mpeg2video")])
def test_a_bare_stream_has_no_times_and_gets_them_by_its_rate(tmp_path: Path, kind: str, codec: str) -> None:
    path = tmp_path / "a.mpg"
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 192, 64, "yuv420p", 3_000_000
        for number, picture in enumerate(coded_frames(12)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    video = read(path)
    assert codes(video) == [0, 4, 7, 11]
    np.testing.assert_allclose(video.times - video.times[0], np.array([0, 4, 7, 11]) / FPS, atol=0.001)


PIXEL_FORMATS = {
    "ffv1": ["gray", "gray16le", "yuv410p", "yuv411p", "yuva420p", "bgra", "gbrp10le", "yuv444p16le", "rgb48le"],
    "rawvideo": ["rgb555le", "monow", "nv12", "yuyv422", "rgb24"],
}


@pytest.mark.parametrize(
    ("codec", "pixels"), [(codec, name) for codec, names in PIXEL_FORMATS.items() for name in names]
)
def test_odd_pixel_formats(tmp_path: Path, codec: str, pixels: str) -> None:
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 192, 64, pixels
        for number, picture in enumerate(coded_frames(5)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    video = read(path, 3)
    assert codes(video) == [0, 2, 4]
    assert {(image.shape, image.dtype.name) for image in video.images} == {((64, 192, 3), "uint8")}


def test_a_matrix_of_zeros_turns_nothing(tmp_path: Path) -> None:
    """Some writers leave it empty; its angle is no number."""
    path = patch_box(write_coded(tmp_path / "a.mp4", 5), b"tkhd", 40, b"\0" * 36)
    video = read(path)
    assert (codes(video), video.rotation) == ([0, 1, 3, 4], 0)


def test_a_format_that_no_decoder_knows(tmp_path: Path) -> None:
    path = patch(write_coded(tmp_path / "a.mp4", 5, samples=tone(1, RATE), rate=RATE), b"avc1", b"zzzz")
    assert "in a format that FFmpeg cannot decode" in refused(path)
    sound = read_sound(path)
    assert sound is not None
    assert len(sound.samples) > RATE / 2


def test_a_video_without_any_frame(tmp_path: Path) -> None:
    for suffix, codec, pixels in (("avi", "mjpeg", "yuvj420p"), ("mp4", "mpeg4", "yuv420p")):
        path = tmp_path / f"a.{suffix}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=FPS)
            stream.width, stream.height, stream.pix_fmt = 192, 64, pixels
            container.start_encoding()
        assert "no frame of its video" in refused(path) or "has no video" in refused(path)
        assert read_sound(path) is None


# --- files under another's name


def test_the_name_says_nothing_about_the_content(tmp_path: Path) -> None:
    os.rename(write_coded(tmp_path / "a.mp4", 10), tmp_path / "a.avi")
    os.rename(write_coded(tmp_path / "b.webm", 10), tmp_path / "b.mp4")
    for path in (tmp_path / "a.avi", tmp_path / "b.mp4"):
        assert codes(read(path)) == [0, 3, 6, 9]


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as container:
        container.writestr("a.txt", "x" * 1000)
    return file.getvalue()


PLAYLISTS = {
    "concat": "ffconcat version 1.0\nfile secret.mp4\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>secret.mp4</BaseURL></MPD>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
}


@pytest.mark.parametrize("kind", ["jpg", "zip", "text", "zeros", *PLAYLISTS])
def test_other_files_called_videos_are_not_opened(tmp_path: Path, kind: str) -> None:
    """Least of all playlists, by which a file could have others read, from here or from elsewhere."""
    write_coded(tmp_path / "secret.mp4", 5)
    contents = {
        "jpg": cv2.imencode(".jpg", next(coded_frames(1)))[1].tobytes(), "zip": archive(), "text": b"no video\n" * 99,
        "zeros": bytes(100_000), **{name: text.encode() for name, text in PLAYLISTS.items()},
    }  # fmt: skip
    path = tmp_path / "a.mp4"
    path.write_bytes(contents[kind])
    assert "cannot be opened" in refused(path)
    with pytest.raises(ClipError, match=r"a\.mp4: cannot be opened"):
        read_sound(path)


def test_a_name_that_looks_like_an_address_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("12:30.mp4", "http:x.mp4", "concat:a.mp4|b.mp4"):
        write_coded(tmp_path / name, 5)
        assert codes(read(Path(name))) == [0, 1, 3, 4]


# --- pictures


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def huge_jpeg() -> bytes:
    data = bytearray(cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    begin = data.index(b"\xff\xc0") + 5
    data[begin : begin + 4] = HUGE_IN_JPEG
    return bytes(data)


def bombs() -> Iterator[tuple[str, bytes]]:
    yield "whole", png(HUGE, HUGE, bytes((HUGE + 1) * HUGE))  # 250 KB that are 768 MB as RGB
    yield "declared", png(HUGE, HUGE, bytes(1000))
    yield "between PIL's warning and its limit", png(10_000, 10_000, bytes(1000))
    yield "beyond 32 bits", png(2**31 - 1, 2**31 - 1)
    yield "jpeg", huge_jpeg()
    small = png(16, 16, bytes(17 * 16))
    yield "chunk", small.replace(small[33:41], struct.pack(">I4s", 2**31 - 9, b"IDAT"))


@pytest.mark.parametrize(("name", "data"), bombs(), ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.filterwarnings("error")
def test_a_picture_that_declares_too_many_pixels(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / "clip" / "frame_0.jpg"
    path.parent.mkdir()
    path.write_bytes(data)
    with pytest.raises(ClipError, match=r"clip/frame_0\.jpg: (declares more than 80,000,000 pixels|cannot be decoded)"):
        read_image(path)


def test_a_picture_that_is_a_terabyte(tmp_path: Path) -> None:
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ClipError, match=r"a\.jpg: is larger than any picture"):
        read_image(tmp_path / "a.jpg")


def test_a_picture_as_large_as_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(3000, 2000, bytes(3001 * 2000)))
    assert read_image(tmp_path / "a.png").shape == (2000, 3000, 3)


def test_pictures_of_other_kinds_are_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n" + bytes(1000))
    (tmp_path / "b.jpg").write_bytes(b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    for name in ("a.jpg", "b.jpg"):
        with pytest.raises(ClipError, match=f"{name}: cannot be decoded as a picture"):
            read_image(tmp_path / name)


# --- sound


def write_riff(
    path: Path, data: bytes, *, kind: int = 1, channels: int = 1, rate: int = RATE, bits: int = 16,
    size: int | None = None, bytes_a_second: int | None = None,
) -> Path:  # fmt: skip
    """A wav file that declares whatever it is told."""
    block = channels * bits // 8
    speed = rate * block if bytes_a_second is None else bytes_a_second
    form = struct.pack("<HHIIHH", kind, channels, rate, speed, block, bits)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    body += b"data" + struct.pack("<I", len(data) if size is None else size) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


def pcm(samples: np.ndarray, bits: int) -> bytes:
    if bits == 8:
        return (np.rint(samples * 127) + 128).astype(np.uint8).tobytes()
    if bits == 24:
        return np.rint(samples * (2**23 - 1)).astype("<i4").reshape(-1, 1).view(np.uint8)[:, :3].tobytes()
    return np.rint(samples * (2 ** (bits - 1) - 1)).astype(f"<i{bits // 8}").tobytes()


def heard(path: Path) -> np.ndarray:
    sound = read_sound(path)
    assert isinstance(sound, Sound)
    assert (sound.rate, sound.start, sound.samples.dtype) == (RATE, 0.0, np.float32)
    return sound.samples


def unheard(path: Path) -> str:
    with pytest.raises(ClipError) as error:
        read_sound(path)
    assert str(error.value).startswith(f"{path.name}: ")
    return str(error.value)


TONE = tone(1, RATE)


@pytest.mark.parametrize(("bits", "tolerance"), [(8, 1 / 127), (16, 1e-4), (24, 1e-6), (32, 1e-6)])
def test_every_width_of_samples_gives_the_same_sound(tmp_path: Path, bits: int, tolerance: float) -> None:
    np.testing.assert_allclose(heard(write_riff(tmp_path / "a.wav", pcm(TONE, bits), bits=bits)), TONE, atol=tolerance)


@pytest.mark.parametrize("bits", [32, 64])
def test_floating_point_samples(tmp_path: Path, bits: int) -> None:
    data = TONE.astype(f"<f{bits // 8}").tobytes()
    np.testing.assert_array_equal(heard(write_riff(tmp_path / "a.wav", data, kind=3, bits=bits)), TONE)


@pytest.mark.parametrize("n", [2, 6, 8, 40])
def test_many_channels_are_mixed_to_their_mean(tmp_path: Path, n: int) -> None:
    channels = np.stack([tone(0.5, RATE, 150 * (number + 1)) for number in range(n)], axis=1)
    path = write_riff(tmp_path / "a.wav", pcm(channels, 16), channels=n)
    np.testing.assert_allclose(heard(path), channels.mean(axis=1), atol=1e-4)


@pytest.mark.parametrize("size", [10**9, 2**32 - 1, 0])
def test_a_size_beyond_the_end_is_not_believed(tmp_path: Path, size: int) -> None:
    """2^32 - 1 and 0 are what programs write that cannot go back to the header."""
    np.testing.assert_allclose(heard(write_riff(tmp_path / "a.wav", pcm(TONE, 16), size=size)), TONE, atol=1e-4)


def test_a_size_before_the_end_is_where_the_sound_ends(tmp_path: Path) -> None:
    path = write_riff(tmp_path / "a.wav", pcm(TONE, 16), size=RATE)  # the rest may be another chunk
    np.testing.assert_allclose(heard(path), TONE[: RATE // 2], atol=1e-4)


@pytest.mark.parametrize("speed", [0, 7, 2**32 - 1])
def test_a_wrong_number_of_bytes_a_second_changes_nothing(tmp_path: Path, speed: int) -> None:
    path = write_riff(tmp_path / "a.wav", pcm(TONE, 16), bytes_a_second=speed)
    np.testing.assert_allclose(heard(path), TONE, atol=1e-4)


@pytest.mark.parametrize("rate", [0, 1, 999, 768_001, 2_000_000_000, 4_000_000_000])
def test_a_rate_that_no_sound_has(tmp_path: Path, rate: int) -> None:
    message = unheard(write_riff(tmp_path / "a.wav", pcm(TONE, 16), rate=rate, bytes_a_second=32_000))
    assert f"claims {rate:,} samples a second" in message or "cannot be opened" in message


@pytest.mark.parametrize("wrong", [{"channels": 0}, {"channels": 65_535, "bits": 8}, {"bits": 0}, {"kind": 0x9999}])
def test_a_header_by_which_nothing_can_be_decoded(tmp_path: Path, wrong: dict[str, int]) -> None:
    unheard(write_riff(tmp_path / "a.wav", pcm(TONE, 16), **wrong))  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_values_that_are_no_numbers_are_silence(tmp_path: Path, rate: int) -> None:
    samples = tone(1, rate)
    samples[1000:1100] = np.nan
    samples[1100:1102] = np.inf, -np.inf
    sound = heard(write_riff(tmp_path / "a.wav", samples.tobytes(), kind=3, bits=32, rate=rate))
    assert np.isfinite(sound).all()
    begin, end = 900 * RATE // rate, 1300 * RATE // rate  # resampling spreads them a little
    silent = np.concatenate([sound[:begin], sound[end:]])
    np.testing.assert_allclose(silent, np.concatenate([TONE[:begin], TONE[end : len(sound)]]), atol=0.01)
    assert not heard(write_riff(tmp_path / "b.wav", np.full(RATE, np.nan, "<f4").tobytes(), kind=3, bits=32)).any()


def test_no_sample_and_a_single_one(tmp_path: Path) -> None:
    assert read_sound(write_riff(tmp_path / "none.wav", b"")) is None
    one = heard(write_riff(tmp_path / "one.wav", pcm(TONE[10:11], 16)))
    np.testing.assert_allclose(one, TONE[10:11], atol=1e-4)


def test_sound_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sound_module, "MAX_SOUND_SECONDS", 3)
    path = write_riff(tmp_path / "a.wav", bytes(2 * RATE * 4))
    assert "longer than" in unheard(path)
    assert len(heard(write_riff(tmp_path / "b.wav", bytes(2 * RATE * 3)))) == 3 * RATE


def test_sound_that_changes_its_kind_on_the_way(tmp_path: Path) -> None:
    """As broadcasts do between a programme and the next; here two mp3 in one file."""
    from clips import write_sound

    samples = tone(1, 44_100)
    write_sound(tmp_path / "mono.mp3", samples, 44_100, "libmp3lame")
    write_sound(tmp_path / "stereo.mp3", np.stack([samples[:24_000], samples[:24_000]]), 48_000, "libmp3lame")
    (tmp_path / "a.mp3").write_bytes((tmp_path / "mono.mp3").read_bytes() + (tmp_path / "stereo.mp3").read_bytes())
    assert len(heard_somewhere(tmp_path / "a.mp3")) == pytest.approx(1.5 * RATE, rel=0.1)


def heard_somewhere(path: Path) -> np.ndarray:
    sound = read_sound(path)
    assert sound is not None
    return sound.samples


@pytest.mark.parametrize("noise", [False, True])
def test_a_video_whose_sound_is_broken(tmp_path: Path, noise: bool) -> None:
    path = write_coded(tmp_path / "a.mp4", 50, FPS, samples=tone(2, 44_100), rate=44_100)
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(audio=0) if packet.size]
    data = bytearray(path.read_bytes())
    for position, size in packets:
        assert position is not None
        data[position : position + size] = os.urandom(size) if noise else b"\xff" * size
    path.write_bytes(data)
    assert codes(read(path)) == [0, 16, 33, 49]
    if not noise:  # a little of noise may by chance be sound
        assert "nothing of its sound could be decoded" in unheard(path)


# --- records of frames


BROKEN_RECORDS = [
    "[]", "{}", '{"frames": 3}', '{"frames": [1, 2]}', '{"frames": [{}]}', '{"frames": [{"index": "0", "time": 0}]}',
    '{"frames": [{"index": 0, "time": null}]}', '{"frames": [{"index": 0, "time": NaN}]}',
    '{"frames": [{"index": 0, "time": 0, "file": "../../secret.jpg"}]}', '{"frames": [{"index": -1, "time": 0}]}',
    '{"frames": [{"index": 0, "time": 1e999}]}', "[" * 100_000, '{"frames": [], "frames": [{"index": 0, "time": 0}]}',
    '{"frames": [{"index": 0, "time": 0}, {"index": 0, "time": 1}]}',
    f'{{"frames": [{{"index": 0, "time": 1{"0" * 400}}}]}}',
]  # fmt: skip


@pytest.mark.parametrize("text", BROKEN_RECORDS, ids=lambda text: text[:40])
def test_a_record_of_frames_that_is_none(tmp_path: Path, text: str) -> None:
    cv2.imwrite(str(tmp_path / "secret.jpg"), np.zeros((8, 8, 3), np.uint8))
    folder = write_frames(tmp_path / "frames" / "clip", pictures(1))
    (folder / FRAMES_FILE).write_text(text)
    with pytest.raises(ClipError, match=r"clip[^\n]*frames\.json"):
        FrameClip("clip", folder).read()


BROKEN_FACES = ['"found": 1', '"found": true, "crop": [0, 0, 1, 1]', '"found": true, "crop": null, "landmarks": null',
                '"found": true, "crop": [0, 0, 1], "landmarks": [[0, 0]]', '"time": 0']  # fmt: skip


@pytest.mark.parametrize("text", BROKEN_FACES)
def test_a_record_of_faces_that_is_none(tmp_path: Path, text: str) -> None:
    folder = write_frames(tmp_path / "faces" / "clip", pictures(1))
    (folder / "faces.json").write_text('{"frames": [{"index": 0, "time": 0, ' + text + "}]}")
    with pytest.raises(ClipError, match=r"clip[^\n]*faces\.json"):
        FrameClip("clip", folder).read()


# --- all of it at once, by the commands


def write_hostile_videos(folder: Path) -> set[str]:
    folder.mkdir()
    (folder / "zip.mp4").write_bytes(archive())
    (folder / "bomb.gif").write_bytes(gif(HUGE, HUGE))
    (folder / "empty.mp4").touch()
    (folder / "playlist.mp4").write_text(PLAYLISTS["concat"])
    patch(mjpeg(folder / "huge.avi"), SIZE_IN_JPEG, HUGE_IN_JPEG)
    patch(write_coded(folder / "unknown.mp4", 5), b"avc1", b"zzzz")
    cut = write_coded(folder / "cut.mp4", 30)
    cut.write_bytes(cut.read_bytes()[:2000])
    return {path.stem for path in folder.iterdir()}


@pytest.mark.parametrize("n_workers", [0, 2])
def test_hostile_videos_cost_a_line_each(tmp_path: Path, run: Run, n_workers: int) -> None:
    hostile = write_hostile_videos(tmp_path / "videos")
    write_coded(tmp_path / "videos" / "good.mp4", 8)
    (tmp_path / "videos" / "small.gif").write_bytes(gif(160, 120))
    outcome = run("get_frame", "--input_folder", tmp_path / "videos", "--output_folder", tmp_path / "frames",
                  "--n_workers", n_workers)  # fmt: skip
    assert outcome.code == 3
    assert "Traceback" not in outcome.said
    failures = read_failures(tmp_path / "frames")
    assert {row.clip for row in failures} == hostile
    assert {row.error for row in failures} == {"ClipError"}
    assert all(re.match(rf"{row.clip}\.\w+: ", row.message) for row in failures)
    assert sorted(path.name for path in (tmp_path / "frames").iterdir() if path.is_dir()) == ["good", "small"]


def test_hostile_sounds_cost_a_line_each(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "sounds"
    folder.mkdir()
    write_riff(folder / "good.wav", pcm(TONE, 16))
    write_riff(folder / "none.wav", b"")
    write_riff(folder / "one.wav", pcm(TONE[10:11], 16))
    write_riff(folder / "nan.wav", np.full(RATE, np.nan, "<f4").tobytes(), kind=3, bits=32)
    write_riff(folder / "loud.wav", (TONE * np.float32(1e38)).tobytes(), kind=3, bits=32)
    write_riff(folder / "slow.wav", pcm(TONE, 16), rate=1)
    write_riff(folder / "zero.wav", pcm(TONE, 16), channels=0)
    outcome = run("extract_audio_features", "--input_folder", folder, "--output_folder", tmp_path / "audio",
                  "--model_name", "logmel", "--n_fragments", 4)  # fmt: skip
    assert outcome.code == 3
    assert {row.clip for row in read_failures(tmp_path / "audio")} == {"loud", "slow", "zero"}
    store = FeatureStore.open(tmp_path / "audio")
    assert store.clips() == ["good", "nan", "none", "one"]
    assert not store.read("none").mask.any()
    assert all(store.read(clip).mask.all() for clip in ("good", "nan", "one"))


def test_a_bomb_among_the_frames_costs_its_clip(tmp_path: Path, run: Run) -> None:
    for clip in ("bomb", "good"):
        write_frames(tmp_path / "frames" / clip, pictures(2))
    (tmp_path / "frames" / "bomb" / frame_name(1)).write_bytes(png(HUGE, HUGE, bytes(1000)))
    outcome = run("extract_visual_features", "--input_folder", tmp_path / "frames", "--output_folder", tmp_path / "out",
                  "--model_name", "hog")  # fmt: skip
    assert outcome.code == 3
    ((clip, message),) = [(row.clip, row.message) for row in read_failures(tmp_path / "out")]
    assert clip == "bomb"
    assert message == "bomb/frame_1.jpg: declares more than 80,000,000 pixels; such pictures are not decoded"


READ_UNDER_A_LIMIT = """
import resource, sys
from pathlib import Path
from viper.errors import ClipError
from viper.media.pictures import read_image
from viper.media.sampling import uniform_indices
from viper.media.sound import read_sound
from viper.media.video import read_frames

def read_four(path):
    return read_frames(path, lambda times: uniform_indices(len(times), 4))

own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (own + 200_000_000,) * 2)
for path in sorted(Path(sys.argv[1]).iterdir()):
    for reader in [read_image] if path.suffix == ".png" else [read_sound, read_four]:
        try:
            reader(path)
        except ClipError:
            print(path.name)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system has no /proc")
def test_no_bomb_fills_the_memory(tmp_path: Path) -> None:
    """In a process that may have 200 MB beyond its own: one of these would be 768 MB."""
    for number, (_, data) in enumerate(bombs()):
        (tmp_path / f"{number}.png").write_bytes(data)
    (tmp_path / "bomb.gif").write_bytes(gif(HUGE, HUGE))
    patch(mjpeg(tmp_path / "huge.avi"), SIZE_IN_JPEG, HUGE_IN_JPEG)
    patch_box(write_coded(tmp_path / "table.mp4", 50, FPS), b"stsz", 4, struct.pack(">II", 100, 2**31 - 5))
    write_riff(tmp_path / "slow.wav", bytes(2_000_000), rate=1)
    write_riff(tmp_path / "fast.wav", bytes(2_000_000), rate=2_000_000_000)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", READ_UNDER_A_LIMIT, str(tmp_path)], env=environment,
                          capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert set(done.stdout.split()) == {path.name for path in tmp_path.iterdir()}


def test_media_are_opened_in_one_place_which_restricts_what_ffmpeg_opens() -> None:
    """A playlist or script called .mp4 names other files and addresses."""
    package = Path(video_module.__file__).parents[1]
    calls = re.compile(r"\b(av\.open|VideoCapture|torchcodec\.decoders|read_video|torchaudio\.load)\(([^\n]*)")
    found = {
        path.relative_to(package).as_posix(): arguments
        for path in package.rglob("*.py")
        for _, arguments in calls.findall(path.read_text(encoding="utf-8"))
        if ', "w"' not in arguments
    }
    assert set(found) == {"media/video.py"}
    assert "options=_OPTIONS" in found["media/video.py"]
