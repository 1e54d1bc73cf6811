"""The report: everything is on the page, and nothing of a run can write HTML into it."""

from zephyr.deliver.report import Report, Sample, ScoreRow, render_report


def test_the_page_holds_all_and_escapes_what_models_say():
    page = render_report(
        Report(
            title="run <1>",
            description="a & b",
            stages={"sft": 12.34},
            scores=[ScoreRow("dDPO", 0.625, 0.58, 0.67, 400)],
            metrics={"eval_loss": 0.693147},
            samples=[Sample("Say hi.", {"base": "<script>alert(1)</script>", "dDPO": "hi"})],
            health=["the margin <saturates>"],
        )
    )
    for shown in (
        "run &lt;1&gt;",
        "a &amp; b",
        "62.5%",
        "58.0% to 67.0%",
        "12.3",
        "0.6931",
        "the margin &lt;saturates&gt;",
    ):
        assert shown in page
    assert "<script>" not in page
    assert "http" not in page
