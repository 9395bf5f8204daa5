"""A name of the standard library means one definition: the first file that has it would hide the others from whoever writes it."""

from collections import Counter

from gradflow.passes.scope import HEADER, standard_files


def test_every_name_of_the_library_is_defined_once() -> None:
    found = Counter(name for path in standard_files() for kind, name in HEADER.findall(path.read_text()) if kind not in ("pipeline", "claim"))
    assert [name for name, count in found.items() if count > 1] == []
