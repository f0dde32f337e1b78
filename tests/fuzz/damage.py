"""Files damaged by chance, the same every time: cut short, bits flipped, bytes overwritten."""

import random
import shutil
from pathlib import Path


def damaged(source: Path, target: Path, seed: int) -> str:
    """Copy a file or folder and damage one file in it; what was done, in words."""
    if source.is_dir():
        shutil.copytree(source, target)
        files = sorted(path for path in target.rglob("*") if path.is_file())
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
        files = [target]
    draw = random.Random(f"{source.name} {seed}")
    # Large files hold mostly numbers, where damage cannot be seen: structure is what to hit.
    file = draw.choice(files)
    content = bytearray(file.read_bytes())
    what = _damage(content, draw)
    file.write_bytes(content)
    return f"{file.name}: {what}"


def _damage(content: bytearray, draw: random.Random) -> str:
    kind = draw.choice(["cut", "flip", "flip", "flips", "overwrite"]) if content else "append"
    match kind:
        case "cut":
            length = draw.randrange(len(content))
            del content[length:]
            return f"cut to {length} bytes"
        case "flip" | "flips":
            count = 1 if kind == "flip" else draw.randint(2, 20)
            places = [draw.randrange(len(content)) for _ in range(count)]
            for place in places:
                content[place] ^= 1 << draw.randrange(8)
            return f"bits flipped at {places}"
        case "overwrite":
            start = draw.randrange(len(content))
            run = draw.randbytes(draw.randint(1, 64))
            content[start : start + len(run)] = run
            return f"{len(run)} bytes overwritten at {start}"
    content.extend(b"damage")
    return "bytes appended"
