"""C files as shared libraries: built once per machine by the C compiler that is there, kept in the cache.

The environment variable MXEXPORT_NATIVE=0 switches every use of them off; what stands in computes the same bits.
Seen on Linux with gcc and clang. The flags are those of gcc and clang on macOS and Windows, too, where it is untested.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mxexport.cache import cached, digest

HERE = Path(__file__).parent
SWITCH = "MXEXPORT_NATIVE"
# No -ffast-math and no contraction: rounding must be that of the source. Nothing here looks at errno or traps. Flags of
# the second list may be unknown.
_FLAGS = ("-std=c11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared")
_TUNING = (("-march=native", "-mprefer-vector-width=512"), ("-march=native",), ())


@dataclass(frozen=True)
class Status:
    """Whether compiled code is in use; `reason` in words; `library` is the file where there is one."""

    active: bool
    reason: str
    library: Path | None = None


def switched_off() -> Status | None:
    """What to report where MXEXPORT_NATIVE=0 is set, else None."""
    return Status(False, f"switched off by {SWITCH}=0") if os.environ.get(SWITCH, "") == "0" else None


def build(*sources: Path) -> Status:
    """The library of C files, named after the first; they may include the headers of this directory."""
    if sys.byteorder != "little":
        return Status(False, "bits in memory are laid out for little-endian processors only")
    compiler = _compiler()
    if compiler is None:
        return Status(False, "no C compiler found (looked for $CC, cc, gcc, clang)")
    try:
        return Status(True, f"compiled by {' '.join(compiler)}", _build(compiler, sources))
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or error
        return Status(False, f"{' '.join(compiler)} could not build {sources[0].name}: {str(detail).strip()}")


def _compiler() -> list[str] | None:
    named = [shlex.split(os.environ["CC"])] if os.environ.get("CC") else []
    for command in (*named, ["cc"], ["gcc"], ["clang"]):
        if shutil.which(command[0]):
            return command
    return None


def _build(compiler: list[str], sources: tuple[Path, ...]) -> Path:
    """The shared library, from the cache where sources, compiler and processor are the same."""
    version = _run([*compiler, "--version"])
    texts = [path.read_bytes() for path in (*sources, *sorted(HERE.glob("*.h")))]
    key = digest([sources[0].name, *texts, " ".join(compiler), version, repr((_FLAGS, _TUNING)), _processor()])
    name = sources[0].stem + {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
    return cached("kernel", key, lambda directory: _compile(compiler, sources, directory / name)) / name


def _compile(compiler: list[str], sources: tuple[Path, ...], library: Path) -> None:
    system = () if sys.platform == "win32" else ("-fPIC",)
    libraries = () if sys.platform == "win32" else ("-lm",)
    for tuning in _TUNING:
        flags = [*_FLAGS, *system, *tuning, f"-I{HERE}"]
        try:
            _run([*compiler, *flags, *map(str, sources), "-o", str(library), *libraries])
            return
        except subprocess.CalledProcessError:
            if tuning == _TUNING[-1]:
                raise


def _run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def _processor() -> str:
    """What -march=native looks at: a cache shared between machines must not hand out code for another one."""
    lines = {platform.machine(), platform.system()}
    info = Path("/proc/cpuinfo")
    if info.exists():
        wanted = ("flags", "Features", "model name", "cpu family", "model\t", "stepping", "CPU part", "isa")
        lines |= {line for line in info.read_text().splitlines() if line.startswith(wanted)}
    return "\n".join(sorted(lines))
