"""A row's verdict: what was found, held to what is expected."""

from typing import Any

VERDICTS = ("right", "refused", "wrong", "traceback")
EXCUSED = {  # contracts that networks with random weights do not keep, and why; the odd ones' stand in their table
    "timm.gmlp_ti16_224": (
        "last",
        "thirty blocks of random weights mix its tokens: cells of block 10 follow the picture, later ones barely do",
    ),
}


def judged(row: dict[str, Any], odd: Any = None) -> dict[str, Any]:
    """The row with ``verdict`` and, where it is wrong, ``wrong``: sentences.

    Args:
        row: with ``refusal`` or ``traceback`` where the product ended so, else with ``checks``.
        odd: the expectation, of an odd network.
    """
    wrong = [f"{name}: {said}" for name, its in row.get("checks", {}).items() for said in its["wrong"]]
    wrong += [f"the check itself failed: {row['failed']}"] if "failed" in row else []
    contract, why = EXCUSED.get(f"{row['group']}.{row['network']}", ("", ""))
    excused = [*(odd.excused if odd is not None else ()), *([contract] if contract else [])]
    if let_off := [said for said in wrong if said.startswith(tuple(excused))]:
        wrong = [said for said in wrong if said not in let_off]
        row = {**row, "excused": f"{'; '.join(let_off)}{f' ({why})' if why else ''}"}
    ended = next((one for one in ("traceback", "refusal") if one in row), None)
    verdict = "traceback" if ended == "traceback" else "wrong" if wrong else "refused" if ended else "right"
    if verdict == "refused" and len(row["refusal"].splitlines()) > 1:
        wrong.append("the refusal has several lines")
    if odd is not None and verdict in ("right", "refused"):
        wrong += _unmet(row, verdict, odd)
    return {**row, "wrong": wrong, "verdict": "wrong" if wrong and verdict != "traceback" else verdict}


def _unmet(row: dict[str, Any], verdict: str, odd: Any) -> list[str]:
    if verdict not in odd.verdicts:
        return [f"expected: {' or '.join(odd.verdicts)}"]
    if verdict == "refused" and odd.word not in row["refusal"].lower():
        return [f"the refusal does not say {odd.word!r}"]
    if verdict == "right" and odd.layers and row["layer"] not in odd.layers:
        return [f"layer {row['layer']}, expected: {' or '.join(odd.layers)}"]
    return []
