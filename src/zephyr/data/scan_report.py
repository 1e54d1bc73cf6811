"""What a scan of preferences found: counts, shares and examples by row, as a summary to print and as JSON."""

from dataclasses import dataclass, field

from zephyr.data.tally import Tally, shortened
from zephyr.intervals import Estimate
from zephyr.records.fields import Json

LENGTH_WARNING = 0.6
LINE_CHARACTERS = 150


@dataclass
class Finding:
    """How many rows or answers have one defect."""

    meaning: str
    unit: str
    of: int = 0
    tally: Tally = field(default_factory=Tally)

    def line(self) -> str:
        """One line with count, share and an example."""
        share = self.tally.count / self.of if self.of else 0.0
        example = f"; {self.tally.examples[0].row}: {self.tally.examples[0].text}" if self.tally.examples else ""
        return shortened(
            f"{self.meaning}: {self.tally.count:,} of {self.of:,} {self.unit} ({share:.1%}){example}", LINE_CHARACTERS
        )

    def to_fields(self) -> dict[str, Json]:
        """The finding as JSON has it."""
        examples: list[Json] = [{"row": row, "text": text} for row, text in self.tally.examples]
        return {
            "meaning": self.meaning,
            "count": self.tally.count,
            "of": self.of,
            "unit": self.unit,
            "share": self.tally.count / self.of if self.of else 0.0,
            "examples": examples,
        }


@dataclass
class ScanReport:
    """Everything a scan found; findings by name, those with a count of zero too."""

    findings: dict[str, Finding]
    rows: int = 0
    answers: int = 0
    longer_wins: Estimate | None = None
    repairs: dict[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """A summary of at most 15 lines: what was looked at, each defect that was found, and what length explains."""
        told = [f"{self.rows:,} rows with {self.answers:,} answers looked at"]
        found = [finding for finding in self.findings.values() if finding.tally.count]
        told += [f"  {finding.line()}" for finding in found]
        if self.repairs.get("score_1") or self.repairs.get("needs_judge"):
            told.append(
                f"  the published repair would make {self.repairs['score_1']:,} of these 10s a 1, "
                f"ask a judge about {self.repairs['needs_judge']:,} and keep {self.repairs['kept']:,}"
            )
        if self.longer_wins is not None:
            share, low, high, n = self.longer_wins
            warning = ": length alone predicts the preference" if low > LENGTH_WARNING else ""
            told.append(
                f"  the longer answer is preferred in {share:.1%} ({low:.1%} to {high:.1%}) of {n:,} rows{warning}"
            )
        if not found:
            told.append("  no defect found")
        return told

    def to_fields(self) -> dict[str, Json]:
        """The report as JSON has it."""
        fields: dict[str, Json] = {"rows": self.rows, "answers": self.answers}
        fields["findings"] = {name: finding.to_fields() for name, finding in self.findings.items()}
        fields["repairs"] = dict(self.repairs)
        fields["longer_wins"] = self._longer_wins()
        return fields

    def _longer_wins(self) -> Json:
        if self.longer_wins is None:
            return None
        share, low, high, n = self.longer_wins
        return {"share": share, "low": low, "high": high, "n": n}
