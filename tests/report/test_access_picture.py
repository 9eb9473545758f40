"""The picture of accesses: what colour a lane's words get."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ferrum_numba.emulator.trace import Access, traffic
from ferrum_numba.errors import FerrumError
from ferrum_numba.report import access_picture
from tests.emulator.trace.harness import trace

BODY = """
mov.u32 %t8, tile; mad.lo.u32 %t9, %t0, 128, %t8; mad.lo.u32 %t10, %t0, 8, %t8;
st.shared.b32 [%t9], %t0;
st.shared.b32 [%t10], %t0;
mad.wide.u32 %q9, %t0, 36, %q0;
ld.global.b32 %t1, [%q9];
"""


def access(space: str, places: np.ndarray, nbytes: int = 4, mask: int = 0xFFFFFFFF) -> Access:
    wide = places.astype(np.uint64)
    return Access(space, "load", nbytes, mask, wide, wide)


def test_banks() -> None:
    lanes = np.arange(32)
    free = access_picture._shared_image(access("shared", 4 * lanes))
    assert (free[lanes, lanes] == access_picture._FREE).all()
    assert (free.sum(axis=2) < 2.99).sum() == 32, "one word a lane"
    for stride, shade in ((8, 0), (16, 1), (128, 2)):
        image = access_picture._shared_image(access("shared", stride * lanes))
        assert (image[5, 5 * stride // 4 % 32] == access_picture._CONFLICTS[shade]).all()
    one = access_picture._shared_image(access("shared", 0 * lanes))
    assert (one[:, 0] == access_picture._FREE).all()


def test_sectors() -> None:
    image = access_picture._global_image(access("global", 128 * np.arange(32), mask=0b101))
    assert image.shape == (32, 2 * 32, 3), "two lines of 128 bytes, in words"
    assert (image[0, 0] == access_picture._USED).all()
    assert (image[2, 32] == access_picture._USED).all()
    assert (image[1, :8] == access_picture._MOVED).all()
    assert (image[:, 8:32] == access_picture._WHITE).all()
    assert (image[1, 32:40] == access_picture._MOVED).all()


def test_a_picture(tmp_path: Path) -> None:
    launch = trace(BODY, np.zeros((32, 64), np.float32), shared_bytes=4096)
    found = traffic(launch, "shared") + traffic(launch, "global")
    path = tmp_path / "map.png"
    count = access_picture.draw(path, found, "k", launch.place_of, lambda event: "a $b$ [%d]")
    assert count == (3, 3)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_picture, "find_spec", lambda name: None)
    with pytest.raises(FerrumError, match=r'pip install "ferrum-numba\[report\]"'):
        access_picture.draw(tmp_path / "map.png", [], "", lambda a, n: "", lambda event: "")
