"""The report in a real browser: it opens without errors and without a network, and the viewer draws."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from tests.report.conftest import Report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (390, 1280)  # pixels, of a phone and of a monitor
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)")


def browse(url: str, folder: Path, *options: str) -> tuple[str, list[str], set[str]]:
    """(DOM when the page has come to rest, lines in the console, addresses of the network that were asked for)."""
    log = folder / "net.json"
    command = [
        str(CHROMIUM),
        "--headless=new",
        "--no-sandbox",
        "--use-gl=angle",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--hide-scrollbars",
        "--virtual-time-budget=20000",
        "--enable-logging=stderr",
        f"--log-net-log={log}",
        f"--user-data-dir={folder / 'profile'}",
        *options,
        url,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    urls = set(re.findall(r'"url":"((?:https?|wss?|ftp):[^"]+)"', log.read_text(encoding="utf-8", errors="replace")))
    return done.stdout, console, {url for url in urls if "google" not in url}  # the browser's own start-up


@needs_chromium
@pytest.mark.slow
def test_the_checks_of_the_browser_can_fail(tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text(
        '<body><img src="http://127.0.0.1:9/x.png"><script>console.error("wrong")</script>'
    )
    dom, console, urls = browse(f"file://{tmp_path}/bad.html", tmp_path, "--dump-dom")
    assert "<img" in dom
    assert any("wrong" in line for line in console)
    assert urls == {"http://127.0.0.1:9/x.png"}


@needs_chromium
@pytest.mark.slow
def test_the_report_opens_in_chromium_and_the_viewer_draws(report: Report, tmp_path: Path) -> None:
    dom, console, urls = browse(f"{report.file.as_uri()}#viewer", tmp_path, "--dump-dom")
    assert console == []
    assert urls == set()
    drawn = re.search(r'data-drawn="(\d+)"', dom)
    assert drawn is not None
    assert int(drawn[1]) > 10_000  # pixels that are not background
    picture = tmp_path / "screenshot.png"
    browse(report.file.as_uri(), tmp_path, f"--screenshot={picture}", "--window-size=1280,2000")
    pixels = imread(picture)
    assert pixels.shape[:2] == (2000, 1280)
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 100


@needs_chromium
@pytest.mark.slow
def test_the_page_fits_a_phone_and_a_monitor_and_the_viewer_waits(report: Report, tmp_path: Path) -> None:
    """The widths of the page and of the learning curve, whether the caption is beside the curve, and whether the boxes
    at the head are equally wide, in frames of 390 and 1280 pixels, because a window is never as narrow as a phone."""
    probe = """<script>
const curve = document.querySelector("#learning figure");
const box = (name) => curve.querySelector(name).getBoundingClientRect();
const beside = box("figcaption").left > box("svg").right;
const [note, advice] = [".note", ".advice"].map((name) => document.querySelector(name).getBoundingClientRect().width);
const page = document.documentElement.scrollWidth;
parent.postMessage([innerWidth, page, Math.round(box("svg").width), beside, note === advice], "*");
</script>"""
    page, end, rest = report.html.rpartition("</body>")
    (tmp_path / "r.html").write_text(page + probe + end + rest, encoding="utf-8")
    listen = "<script>onmessage = ({data}) => { document.body.dataset[`at${data[0]}`] = data }</script>"
    frame = '<iframe src="r.html" width="{}" height="844" style="border: 0"></iframe>'
    (tmp_path / "frames.html").write_text(f"<body>{listen}{''.join(map(frame.format, WIDTHS))}")
    dom, console, _ = browse((tmp_path / "frames.html").as_uri(), tmp_path, "--dump-dom")
    assert console == []
    assert 'data-at390="390,390,382,false,true"' in dom  # 382 pixels: see test_text_can_be_read_on_a_phone
    assert re.search(r'data-at1280="1280,1280,5\d\d,true,true"', dom)
    dom, console, urls = browse(report.file.as_uri(), tmp_path, "--dump-dom")
    assert console == []
    assert urls == set()
    assert "data-drawn" not in dom
    assert 'id="viewer_start"' in dom
