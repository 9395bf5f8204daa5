"""Writes the expected output beside every spec in this folder anew: `python -m tests.errors.record`. Read the diff before keeping it."""

from __future__ import annotations

from tests.errors.harness import rendered, specs


def main() -> None:
    for path in specs():
        expected = path.with_suffix(".txt")
        text = rendered(path)
        if not expected.exists() or expected.read_text(encoding="utf-8") != text:
            expected.write_text(text, encoding="utf-8")
            print(f"recorded {expected}")


if __name__ == "__main__":
    main()
