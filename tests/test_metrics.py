from handler.metrics import Counters


def test_counts_add_up_until_they_are_taken():
    counters = Counters()
    counters.add("a")
    counters.add("a", 2)
    counters.add("b")
    assert counters.take() == {"a": 3, "b": 1}
    assert counters.take() == {}
