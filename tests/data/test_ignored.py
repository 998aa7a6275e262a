"""What is not converted is counted by kind, and told in a short table that says what to do."""

from collections import Counter

from functaconv.data.ignored import HIDDEN, LABELS, MOST_KINDS, OTHERS, beside, ignore, ignored_lines, most_ignored


def test_the_kind_for_which_most_can_be_done_comes_first_with_what_to_do() -> None:
    ignored = Counter({".mtl": 9, HIDDEN: 3, beside("png", "jpg"): 2, LABELS: 5})
    assert ignored_lines(ignored) == [
        "2 png beside jpg (--field png takes them instead)",
        "5 labels and captions apart from their items",
        "9 .mtl",
        "3 (hidden)",
    ]
    assert most_ignored(Counter({HIDDEN: 3})) == "3 (hidden)"
    assert ignored_lines({}) == []


def test_many_kinds_are_counted_and_told_together() -> None:
    ignored = Counter[str]()
    for number in range(MOST_KINDS + 20):
        ignore(ignored, f".{number:03d}", 2)
    assert len(ignored) == MOST_KINDS + 1
    assert ignored[OTHERS] == 40
    assert ignored.total() == 2 * (MOST_KINDS + 20)
    lines = ignored_lines(ignored)
    assert len(lines) == 9
    assert lines[-1] == f"{2 * (MOST_KINDS + 20) - 16} of {MOST_KINDS - 7} more kinds"
