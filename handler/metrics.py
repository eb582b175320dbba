"""Counters that are raised anywhere and emitted in the entry file, where alone TorchServe takes them."""

ENGINE_DISAGREEMENTS = "engine_disagreements"  # outputs in which graphs and hooks differed at start-up


class Counters:
    """Counts since the last time they were taken."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, name: str, count: int = 1) -> None:
        """Raises a counter."""
        self._counts[name] = self._counts.get(name, 0) + count

    def take(self) -> dict[str, int]:
        """Counts by name, which start from nothing again."""
        taken, self._counts = self._counts, {}
        return taken
