"""demo_page as a process: visited in a browser, and asked over HTTP by those who want something else of it."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import numpy as np
import pytest
from browser import PHONE, Visit
from many import is_running, long_test, session_members
from media import tone, write_coded
from pages import API, FORGET, MAX_MB, SAMPLE, SWITCH, UPLOAD, Served, Visitor, file_data, until
from scipy.io import wavfile

from viper.demo import Identity, write_clip
from viper.inference.predictor import ClipPredictor

pytest_plugins = ["page_fixtures"]

with contextlib.suppress(ImportError):  # then the tests in a browser are skipped by its fixture
    from playwright.sync_api import expect

pytestmark = [
    # Not importorskip, which takes four seconds.
    pytest.mark.skipif(find_spec("gradio") is None, reason="needs Gradio: pip install 'viper[page]'"),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes as Linux shows them"),
]

MAX_BYTES = int(MAX_MB * 2**20)
PATIENCE = 60_000  # ms
FORM = "multipart/form-data; boundary=x"
READ = "seconds</p>"  # stands after the name of a clip that was read


@pytest.fixture(scope="module", autouse=True)
def silent(served: Served) -> Iterator[socket.socket]:
    """A connection on which half a request was sent when the page began."""
    name, _, port = served.address.removeprefix("http://").partition(":")
    with socket.create_connection((name, int(port)), timeout=30) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: ")
        yield connection


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "sound.wav"
    wavfile.write(path, 16_000, tone(1.5, 16_000))
    return path.read_bytes()


# --- what a browser asks ----------------------------------------------------------------------------------------------


def test_a_clip_is_read_shown_and_deleted(served: Served, visitor: Visitor, sound: bytes) -> None:
    clip = visitor.sent(sound, "../../some body's <b>.wav")
    assert not clip["path"].startswith("/")
    shown = visitor.client.get(f"{API}/file={clip['path']}", headers={"Range": "bytes=4-7"})
    assert (shown.status_code, shown.content) == (206, sound[4:8])
    assert shown.headers["content-type"].startswith("audio/")
    words = visitor.sent(b"1\n00:00:00,000 --> 00:00:01,000\nhello\n", "words.srt")
    told = visitor.ask(UPLOAD, clip, words)
    assert "some body_s _b_.wav \\u00b7 1.5 seconds" in told
    assert "3 windows" in told
    assert str(served.folder) not in told
    until(lambda: not served.files)
    assert visitor.client.get(f"{API}/file={clip['path']}").status_code == 204
    told = visitor.ask(SWITCH, None, ["textual"])
    assert "switched off" in told
    assert "Drop or record" in visitor.ask(FORGET)
    assert "switched off" not in visitor.ask(SWITCH, None, [])


def test_the_page_names_no_path_of_the_server(served: Served, visitor: Visitor, checkpoint: Path) -> None:
    page = visitor.client.get("/").text
    for secret in (str(served.place), str(checkpoint), "site-packages", str(Path.home()), os.uname().nodename):
        assert len(secret) < 6 or secret not in page


# --- in a browser -----------------------------------------------------------------------------------------------------


def send(visit: Visit, path: Path) -> None:
    """Gives a file to the place for clips."""
    visit.page.set_input_files("#clip input[type=file]", str(path))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "somebody.mp4"
    write_clip(path, {"Amusement": 0.9, "Fear": 0.8}, Identity.from_seed(5), 5, 1.5, subtitles=path.with_suffix(".srt"))
    return path


def expect_nothing_left(served: Served) -> None:
    """Within seconds, no file in the folder of uploads."""
    until(lambda: not served.files, 30)


def expect_values(visit: Visit, expected: np.ndarray) -> None:
    for k, value in enumerate(expected):
        expect(visit.page.locator(".bars .value").nth(k)).to_have_text(f"{value:.3f}", timeout=PATIENCE)


def test_a_clip_is_read_and_modalities_are_switched(
    visit: Visit, served: Served, predictor: ClipPredictor, clip: Path, tmp_path: Path
) -> None:
    page, words = visit.page, clip.with_suffix(".srt")
    page.set_input_files("#subtitles input[type=file]", str(words))
    expect(page.locator("#subtitles")).to_contain_text("somebody")
    send(visit, clip)
    expect(page.locator("#timeline svg")).to_have_count(7, timeout=PATIENCE)
    reading = predictor.read(clip, words)
    expect_values(visit, predictor.predict([reading])[0])
    expect(page.locator("#message .there")).to_have_count(3)
    expect(page.locator("#timeline")).to_contain_text("3 windows", timeout=PATIENCE)
    expect_nothing_left(served)

    pictures = page.locator("#faces img")
    assert pictures.count() == 3
    assert all(re.fullmatch(r"Frame at \d\.\d seconds, face found", each.get_attribute("alt") or "")
               for each in pictures.all())  # fmt: skip

    before = page.locator(".bars .value").all_inner_texts()
    page.get_by_label("audio", exact=True).uncheck()
    expect(page.locator("#message")).to_contain_text("switched off")
    expect_values(visit, predictor.predict([reading], hidden=["audio"])[0])
    assert page.locator(".bars .value").all_inner_texts() != before
    assert page.locator(".bars i.full").count() == 7
    page.screenshot(path=tmp_path / "desktop.png", full_page=True)
    assert visit.axe() == []
    for name in ("visual", "textual"):
        page.get_by_label(name, exact=True).uncheck()
    expect(page.locator("#bars")).to_contain_text("Nothing of the clip is left")
    expect_values(visit, predictor.predict([reading], hidden=predictor.modalities)[0])
    page.get_by_role("button", name="Forget the clip").click()
    expect(page.locator("#message")).to_contain_text("Drop or record a clip")
    expect(page.locator(".bars")).to_have_count(0)
    expect(page.get_by_label("audio", exact=True)).to_be_checked()


@long_test
@pytest.mark.parametrize("visit", [{"size": PHONE, "dark": True, "has_touch": True, "is_mobile": True}], indirect=True)
def test_a_made_up_clip_on_a_phone_in_the_dark(visit: Visit, served: Served, tmp_path: Path) -> None:
    page = visit.page
    page.get_by_role("button", name="Try a made-up clip").tap()
    expect(page.locator("#timeline svg")).to_have_count(7, timeout=PATIENCE)
    expect(page.locator("#message .there")).to_have_count(3)
    expect(page.locator(".bars i.made")).to_have_count(7)
    page.screenshot(path=tmp_path / "phone.png", full_page=True)
    assert visit.overflow() <= 0
    assert visit.axe() == []


def test_files_that_will_not_do(visit: Visit, served: Served, tmp_path: Path) -> None:
    page = visit.page
    bad, long, large = tmp_path / "bad.mp4", tmp_path / "long.mp4", tmp_path / "large.mp4"
    bad.write_bytes(b"this is no video")
    write_coded(long, 110, 25)
    large.write_bytes(bytes(600_000))
    message = page.locator("#message [role=alert]")
    send(visit, bad)
    expect(message).to_have_text(re.compile(r"^bad\.mp4: cannot be opened as audio or video"), timeout=PATIENCE)
    expect_nothing_left(served)
    send(visit, long)
    expect(message).to_have_text("long.mp4: is longer than the 4 seconds that this page takes", timeout=PATIENCE)
    expect_nothing_left(served)
    # Gradio's own message, before anything is sent.
    send(visit, large)
    expect(page.get_by_text(re.compile("exceed the maximum allowed size of", re.IGNORECASE)).first).to_be_visible(
        timeout=PATIENCE
    )
    expect_nothing_left(served)
    page.screenshot(path=tmp_path / "refused.png")
    assert "Traceback" not in page.content()
    assert "Traceback" not in served.said


# --- what nobody may have ---------------------------------------------------------------------------------------------


def test_a_file_elsewhere_is_not_taken(
    served: Served, visitor: Visitor, sound: bytes, tmp_path: Path, checkpoint: Path
) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(sound)
    own = visitor.sent(sound)["path"]
    key = own.partition("/")[0]
    (served.folder / key / "link.wav").symlink_to(secret)
    paths = [secret, secret.as_uri(), "/etc/passwd", "/proc/self/environ", "/dev/zero", "/dev/stdin", served.folder, ""]
    paths += [served.folder / own, f"{key}/link.wav", f"{key}/../{own}", f"./{own}", key, checkpoint / "config.json"]
    paths += ["http://127.0.0.1:1/a", "https://localhost/a.wav", f"../{served.folder.name}/{own}"]
    for path in map(str, paths):
        spellings = [file_data(path), {"path": path}, file_data(path, is_stream=True, url=path), [file_data(path)]]
        for value in spellings:
            calls = [(UPLOAD, value, None), (UPLOAD, None, value), (SWITCH, value, []), (SWITCH, None, value)]
            for call in (*calls, (SAMPLE, value), (FORGET, value)):
                assert visitor.call(*call).status_code in (400, 403), call
        assert visitor.client.get(f"{API}/file={path}").status_code in (204, 404), path
    (served.folder / key / "link.wav").unlink()
    # A good path with a bad address beside it: what the address says is not asked for.
    assert READ in visitor.ask(UPLOAD, file_data(own, url="http://127.0.0.1:1/a.wav"), None)


def test_what_one_visitor_sent_is_nobody_elses(served: Served, visitor: Visitor, other: Visitor, sound: bytes) -> None:
    clip = visitor.sent(sound)
    theirs = other.sent(sound)
    assert theirs["path"] != clip["path"]
    assert other.call(UPLOAD, clip, None).status_code == 403
    assert other.client.get(f"{API}/file={clip['path']}").status_code == 204
    assert READ in other.ask(UPLOAD, theirs, None)
    # The other's is deleted by now; this one is still there, and is read.
    assert visitor.client.get(f"{API}/file={clip['path']}").content == sound
    assert READ in visitor.ask(UPLOAD, clip, None)
    # A page that somebody else has opened is not told anything, nor asked for anything.
    assert other.call(SWITCH, None, [], session_hash=visitor.page).status_code == 403
    for path in (f"queue/data?session_hash={visitor.page}", f"heartbeat/{visitor.page}"):
        assert other.client.get(f"{API}/{path}").status_code == 404


def test_other_routes_do_not_exist(served: Served, visitor: Visitor) -> None:
    routes = ["config", "config/", "info", "gradio_api/info", "gradio_api/openapi.json", "gradio_api/deep_link",
              f"gradio_api/deep_link?session_hash={visitor.page}", "gradio_api/run/predict", "gradio_api/api/predict",
              "gradio_api/call/_of_sample", "gradio_api/call/v2/_of_sample", "gradio_api/queue/status",
              "gradio_api/proxy=http://127.0.0.1:1/", "gradio_api/stream/a/b/1/playlist.m3u8", "monitoring",
              "gradio_api/component_server", "gradio_api/custom_component/a/b/c/d", "gradio_api/vibe-edit",
              "gradio_api/vibe-code", "gradio_api/startup-events", "gradio_api/app_id", "gradio_api/token",
              "robots.txt",
              "gradio_api/reset", "gradio_api/cancel", "gradio_api/process_recording", "gradio_api/mcp/sse",
              "manifest.json",
              "gradio_api/file/etc/passwd", "gradio_api/upload_progress/", "login", "logout", "docs", "openapi.json",
              "svelte/../../x", "pwa_icon", "gradio_api/runs", "gradio_api/dev/reload", "gradio_api/queue/data",
              f"gradio_api/queue/data?session_hash={visitor.page}", "gradio_api/user", "static/../config", "//config",
              "assets/..%2f..%2fconfig", "static/%2e%2e/%2e%2e/routes.py", "assets//etc/passwd", "static//etc/passwd",
              "?deep_link=../x"]  # fmt: skip
    for route in routes:
        for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            answer = visitor.client.request(method, f"{served.address}/{route}", json={})
            is_page = route.startswith("?") and method == "GET"
            assert (answer.status_code == 200) == is_page, (method, route)
            assert answer.status_code in (200, 404), (method, route, answer.status_code)
    assert visitor.client.put("/").status_code == visitor.client.post("/theme.css").status_code == 404


def test_files_are_not_found_under_other_spellings(served: Served, visitor: Visitor) -> None:
    """Sent as they are, since a client would tidy them up."""
    cookie = f"viper_visitor={visitor.client.cookies['viper_visitor']}"
    targets = ["%2Fetc%2Fpasswd", "/etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "%0", "%00",
               "/proc/self/environ", "file:///etc/passwd", "http%3A%2F%2F127.0.0.1", "\\etc\\passwd"]  # fmt: skip
    for target in targets:
        answer = raw(served, f"GET {API}/file={target} HTTP/1.1", f"Cookie: {cookie}")
        assert answer.split()[1] in ("204", "400", "404"), target
        assert "root:" not in answer
    for line in (
        "GET /assets/../config HTTP/1.1",
        "GET /static/../../routes.py HTTP/1.1",
        "GET /assets/./../x HTTP/1.1",
    ):
        assert raw(served, line).split()[1] == "404", line


def raw(served: Served, *lines: str, host: str | None = None) -> str:
    """What is answered to a request spelled so."""
    name, _, port = served.address.removeprefix("http://").partition(":")
    head = (*lines, f"Host: {host or f'{name}:{port}'}", "Connection: close", "", "")
    with socket.create_connection((name, int(port)), timeout=30) as connection:
        connection.sendall("\r\n".join(head).encode("latin-1"))
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode("latin-1")


def test_calls_that_are_none(served: Served, visitor: Visitor) -> None:
    address = f"{API}/queue/join"
    good = {"data": [], "fn_index": FORGET, "session_hash": visitor.page}
    wrong = [[], None, 1, "x", {}, {**good, "fn_index": 4}, {**good, "fn_index": -1}, {**good, "fn_index": "2"},
             {**good, "fn_index": True}, {**good, "fn_index": None}, {**good, "session_hash": "../x"},
             {**good, "session_hash": None}, {**good, "session_hash": 5}, {**good, "session_hash": "a" * 99},
             {**good, "data": None}, {**good, "data": {}}, {**good, "data": [{}]}, {**good, "data": [1]},
             {**good, "data": [[[]]]}, {**good, "data": [None] * 999}, {**good, "data": ["text"]},
             {**good, "trigger_id": "x"}, {**good, "fn_index": UPLOAD, "data": [None]},
             {**good, "fn_index": SWITCH, "data": [None, ["none of these"]]},
             {**good, "fn_index": SWITCH, "data": [{}, []]}]  # fmt: skip
    for body in wrong:
        assert visitor.client.post(address, json=body).status_code in (400, 403), body
    for content in (b"", b"{", b"[" * 60_000, b'{"a":' * 10_000, b"\xff\xfe", b"NaN", b"1" * 5000):
        assert visitor.client.post(address, content=content).status_code == 400, content[:20]
    assert visitor.client.post(address, content=b" " * 70_000).status_code == 413
    assert visitor.client.post(address, content=iter([b" " * 9_000] * 99)).status_code == 413
    assert "alert" not in visitor.ask(UPLOAD, None, None)
    # What a call says besides is not passed on.
    call = {**good, "event_data": {"x": "/etc/passwd"}, "fn_name": "x", "simple_format": True, "batched": True}
    assert visitor.client.post(address, json=call).status_code == 200


def test_pages_elsewhere_cannot_ask(served: Served, visitor: Visitor, sound: bytes) -> None:
    port = served.address.rpartition(":")[2]
    for origin in ("http://evil.example", "null", f"http://localhost:{port}", "http://127.0.0.1", "http://127.0.0.1:1"):
        for path in ("upload", "queue/join"):
            answer = visitor.client.post(f"{API}/{path}", files={"files": ("a.wav", sound)}, headers={"Origin": origin})
            assert answer.status_code == 403, origin
    answer = visitor.client.post(
        f"{API}/upload", files={"files": ("a", sound)}, headers={"Sec-Fetch-Site": "same-site"}
    )
    assert answer.status_code == 403
    assert visitor.client.get(f"{API}/heartbeat/x", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert visitor.client.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200
    own = visitor.client.post(f"{API}/upload", files={"files": ("a", sound)}, headers={"Origin": served.address})
    assert own.status_code == 200
    assert "access-control-allow-origin" not in own.headers
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "", "[::1", "127.0.0.1:1, x"):
        assert raw(served, "GET / HTTP/1.1", host=host or " ").split()[1] == "400", host
    # Gradio would believe these, and have the page load its scripts from there.
    forwarded = visitor.client.get("/", headers={"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"})
    assert "evil.example" not in forwarded.text
    # Who has not opened the page is nobody.
    visitor.client.cookies.clear()
    assert visitor.upload(sound).status_code == 403
    assert visitor.call(SAMPLE).status_code == 403
    answer = raw(served, "GET /gradio_api/queue/data HTTP/1.1", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
                 "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")  # fmt: skip
    assert " 101 " not in answer


# --- how much ---------------------------------------------------------------------------------------------------------


def test_uploads_beyond_the_limits_are_refused_and_leave_nothing(served: Served, visitor: Visitor) -> None:
    before = set(served.files)
    for answer, status in (
        (visitor.upload(bytes(MAX_BYTES + 1)), 413),
        (visitor.upload(bytes(4 * MAX_BYTES)), 413),
        (visitor.upload(b"x", field="other"), 400),
        (visitor.client.post(f"{API}/upload", files=[("files", ("a", b"x"))] * 2), 400),
        (visitor.client.post(f"{API}/upload", files={"files": ("a", b"x")}, data={"more": "x"}), 400),
        (visitor.client.post(f"{API}/upload", content=b"x"), 400),
        (visitor.client.post(f"{API}/upload", content=b"--xa", headers={"Content-Type": FORM}), 400),
        (visitor.client.post(f"{API}/upload", content=b"x", headers={"Content-Type": "multipart/form-data"}), 400),
        (visitor.client.post(f"{API}/upload", data={"files": "http://127.0.0.1:1/a.mp4"}), 400),
    ):
        assert answer.status_code == status, answer.text
        assert "\n" not in answer.text
    assert "boundary" not in served.said  # of which the library that reads forms says something
    # In pieces, without saying how many: no more is read than may be kept.
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'
    pieces = iter([head, *[bytes(65536)] * 40])
    answer = visitor.client.post(f"{API}/upload", content=pieces, headers={"Content-Type": FORM})
    assert answer.status_code == 413
    assert set(served.files) <= before


def test_a_name_is_only_a_name(served: Served, visitor: Visitor) -> None:
    for name in (
        "/etc/passwd",
        "..",
        "",
        ".",
        "a/../../b.mp4",
        "x" * 300 + ".mp4",
        "\U0001f600" * 200,
        "a\\b.mp4",
        "CON",
    ):
        path = visitor.sent(b"x", name or "x")["path"]
        assert path.count("/") == 1
        assert (served.folder / path).is_file(), name


def test_a_visitor_with_many_pages_takes_nothing_from_others(served: Served, visitor: Visitor, other: Visitor) -> None:
    assert READ in other.ask(SAMPLE)
    pages = [secrets.token_hex(6) for _ in range(30)]
    statuses = [visitor.call(SWITCH, None, [], session_hash=page).status_code for page in pages]
    assert statuses == [200] * 30  # the first of them are forgotten
    assert "switched off" in other.ask(SWITCH, None, ["audio"])  # another's clip is not
    statuses = [visitor.call(FORGET, session_hash=pages[-1]).status_code for _ in range(9)]
    assert statuses == [200, 200, *[503] * 7]  # who listens to nothing
    assert "Drop or record" in other.ask(FORGET)
    quiet = Visitor(served)  # has asked for nothing: there is nothing to tell, and no error of Gradio's in the log
    with quiet.client.stream("GET", f"{API}/heartbeat/{quiet.page}"):
        assert quiet.client.get(f"{API}/queue/data?session_hash={quiet.page}").status_code == 404


# --- side by side -----------------------------------------------------------------------------------------------------


@long_test
def test_a_clip_that_hangs_blocks_nobody_and_ends_with_its_visitor(
    served: Served, visitor: Visitor, other: Visitor, sound: bytes
) -> None:
    until(lambda: READ in other.ask(SAMPLE))  # both processes have loaded what they need
    idle = until(lambda: len(found := served.readers()) == 2 and found)
    stopped = idle[0]
    os.kill(stopped, signal.SIGSTOP)
    # One of the two next clips goes to the stopped process, whoever sends it.
    clients = {visitor: threading.Event(), other: threading.Event()}

    def read(who: Visitor, done: threading.Event) -> None:
        with who.client.stream("GET", f"{API}/queue/data", params={"session_hash": who.page}) as answer:
            for line in answer.iter_lines():
                if "process_completed" in line:
                    done.set()

    threads = []
    for who, done in clients.items():
        assert who.call(UPLOAD, who.sent(sound), None).status_code == 200
        threads.append(threading.Thread(target=_quietly, args=(read, who, done), daemon=True))
        threads[-1].start()
    until(lambda: any(done.is_set() for done in clients.values()))
    (hung,) = [who for who, done in clients.items() if not done.is_set()]
    assert is_running(stopped)
    assert visitor.client is not None
    hung.client.close()  # as when the page is closed
    until(lambda: not is_running(stopped), 20)
    until(lambda: len(served.readers()) == 2)
    assert READ in Visitor(served).ask(SAMPLE)


def _quietly(function: object, *arguments: object) -> None:
    try:
        function(*arguments)  # type: ignore[operator]
    except Exception:
        return


def test_a_process_that_dies_costs_one_clip(served: Served, visitor: Visitor, sound: bytes) -> None:
    before = until(lambda: len(found := served.readers()) == 2 and found)
    for process in before:
        os.kill(process, signal.SIGSTOP)
    assert visitor.call(UPLOAD, visitor.sent(sound), None).status_code == 200
    told: list[str] = []
    thread = threading.Thread(target=lambda: told.extend(map(str, visitor.listen())))
    thread.start()
    crowd_at_one_address(served)
    for process in before:
        with contextlib.suppress(ProcessLookupError):  # the other had one of the crowd's, and went with its page
            os.kill(process, signal.SIGKILL)
    thread.join(60)
    assert "the process that read this clip crashed (SIGKILL" in "".join(told)
    assert READ in visitor.ask(SAMPLE)


def crowd_at_one_address(served: Served) -> None:
    """More visitors than the queue has room for; the last comes from elsewhere, and finds some."""
    crowd = [Visitor(served) for _ in range(3)]
    assert 8 < [each.call(SAMPLE).status_code for each in crowd for _ in range(8)].count(200) <= 12
    elsewhere = Visitor(served)
    transport = httpx.HTTPTransport(local_address="127.0.0.2")
    elsewhere.client = httpx.Client(base_url=served.address, transport=transport, timeout=PATIENCE / 1000)
    assert elsewhere.client.get("/").status_code == 200
    assert "Drop or record" in elsewhere.ask(FORGET)
    for each in crowd:  # what a page has asked for goes with it
        for page in range(6):
            with each.client.stream("GET", f"{API}/heartbeat/{each.page}{page}") as answer:
                assert answer.status_code == 200


def test_all_uploads_together_have_a_limit(served: Served, visitor: Visitor) -> None:
    def large() -> list[int]:
        return [size for path in served.files if (size := path.stat().st_size) > MAX_BYTES / 2]

    assert [visitor.upload(bytes(MAX_BYTES)).status_code for _ in range(6)] == [200] * 6
    assert len(large()) == 4  # a visitor's oldest goes
    others = [Visitor(served), Visitor(served)]
    statuses = [each.upload(bytes(MAX_BYTES)).status_code for each in others for _ in range(4)]
    assert 507 in statuses
    assert 4 * MAX_BYTES < sum(large()) <= 8 * MAX_BYTES


def test_an_error_nobody_expected_is_told_without_its_trace(served: Served, visitor: Visitor) -> None:
    """The disk loses a clip in the moment it is made."""
    until(lambda: not list(served.folder.glob("reading-*")))  # those of the tests before
    readers = until(lambda: len(found := served.readers()) == 2 and found)
    for process in readers:
        os.kill(process, signal.SIGSTOP)
    assert visitor.call(SAMPLE).status_code == 200
    (lost,) = until(lambda: list(served.folder.glob("reading-*")))
    lost.rmdir()
    lost.write_bytes(b"")
    for process in readers:
        os.kill(process, signal.SIGCONT)
    told = str(list(visitor.listen()))
    assert "Something went wrong" in told
    assert lost.name not in told
    assert lost.name in served.said
    lost.unlink()
    assert READ in visitor.ask(SAMPLE)


def test_who_sends_nothing_is_hung_up_on(served: Served, silent: socket.socket) -> None:
    with contextlib.suppress(ConnectionResetError):
        assert silent.recv(1) == b""
    assert Visitor(served)


@long_test
def test_a_clip_that_takes_too_long_is_ended_in_time(checkpoint: Path, tmp_path: Path, sound: bytes) -> None:
    with Served(checkpoint, tmp_path / "t", "--max_read_seconds", 40, "--max_wait_seconds", 5) as served:
        visitor = Visitor(served)
        visitor.sent(sound)
        until(lambda: not served.files)  # in time, though nobody asked for anything
        assert READ in visitor.ask(SAMPLE)
        stop(served)
        assert "took longer than the 40 seconds" in visitor.ask(UPLOAD, visitor.sent(sound), None)
        for process in served.readers():  # the other one is still stopped
            os.kill(process, signal.SIGCONT)
        assert READ in visitor.ask(SAMPLE)
        again = [*served.command, "--port", served.address.rpartition(":")[2]]
        second = subprocess.run(again, capture_output=True, text=True)
        assert second.returncode == 2
        assert "another --port" in second.stderr
        assert second.stderr.count("\n") == 1


@long_test
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_its_end_is_the_end_of_all_of_it(checkpoint: Path, tmp_path: Path, sound: bytes, signum: int) -> None:
    """In the middle of a clip that hangs. SIGHUP ends the page of the other tests."""
    place = tmp_path / "t"
    with Served(checkpoint, place) as served:
        visitor = Visitor(served)
        assert READ in visitor.ask(SAMPLE)
        stop(served)
        assert visitor.call(UPLOAD, visitor.sent(sound), None).status_code == 200
        assert served.files
        code = served.end(signum)
        if signum == signal.SIGKILL:  # the hung processes end with it, once they go on
            for process in session_members(served.process.pid):
                os.kill(process, signal.SIGCONT)
        until(lambda: not session_members(served.process.pid), 30)
        assert code == (-signal.SIGKILL if signum == signal.SIGKILL else 0)
    left = list(place.glob(".tmp*"))
    assert len(left) == (signum == signal.SIGKILL)
    if left:
        with Served(checkpoint, place):
            assert not left[0].exists()


def stop(served: Served) -> None:
    """Make the next clips hang."""
    for process in until(lambda: len(found := served.readers()) == 2 and found):
        os.kill(process, signal.SIGSTOP)
