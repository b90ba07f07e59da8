"""A page with a block of every type in every variant, with any text added to each of its texts."""

from __future__ import annotations

from io import BytesIO

from PIL import Image

from gebm_cli.experiment.report.blocks import Code, Missing, Page, Picture, Row, Section, Slider, Table, Text

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
LONG = "/data/" + "a-long-folder-name-without-a-break/" * 4 + "0123456789abcdef" * 4
COLOURS = [(200, 30, 30), (160, 90, 40), (110, 130, 60), (60, 160, 90), (30, 60, 200)]
DRAWING = """<svg role="img" aria-label="KALE from 9.4 to .37" viewBox="0 0 480 240" width="100%">
<rect width="480" height="240" fill="var(--paper)"/><path d="M40 10V200H470" fill="none" stroke="var(--ink)"/>
<path d="M40 60H470M40 130H470" stroke="var(--grid)"/>
<path d="M40 30 L140 120 L240 160 L470 180" fill="none" stroke="var(--series-1)" stroke-width="2"/>
<path d="M40 60 L140 150 L240 175 L470 190" fill="none" stroke="var(--series-2)" stroke-width="2"/>
<text x="230" y="230" fill="var(--quiet)" font-size="11">step</text></svg>"""


def flat(colour, form="PNG", size=(32, 24)):
    """The bytes of an image of one colour."""
    stream = BytesIO()
    Image.new("RGB", size, colour).save(stream, form, lossless=True)
    return stream.getvalue()


class Words:
    """Makes the sections; `add` stands at the end of each text."""

    def __init__(self, add):
        self.add = add

    def __call__(self, text):
        return text + self.add

    def run(self):
        commands = ["gebm train-base experiments/digits.yaml --seed 0", f"gebm sample --out {LONG}"]
        paragraph = Text(self("A paragraph, " + "and then some words, " * 12))
        tones = [("It is quiet.", "quiet"), ("The chains have mixed.", "good"), ("Step 40 diverged.", "bad")]
        keys = [[self(f"train.key_{k}"), self(LONG)] for k in range(3)]
        blocks = [
            Code([self(c) for c in commands], self("To do it again:")),
            paragraph,
            *(Text(self(text), tone) for text, tone in tones),
            Table([self("key"), self("value")], keys, self("All keys"), folded=True),
        ]
        return Section(self("run"), self("What was run"), blocks, self("The experiment, and where it ran."))

    def pictures(self):
        curve = Picture(DRAWING, "KALE", self("KALE while training."), self("gebm train-energy"))
        grid = Picture(flat((9, 99, 9), "WEBP"), self("a grid"), self("Samples"), media="image/webp")
        frames = [(self(f"step {10 * k}"), flat(colour)) for k, colour in enumerate(COLOURS)]
        caption, beside = self("The same latents along the chain."), self("base, step 0")
        blocks = [
            curve,
            Row([curve, grid]),
            Slider(frames, self("chains"), caption, beside, self("gebm sample"), "image/png", pixelated=True),
            Slider([(self("only"), flat((5, 5, 90)))], self("still"), media="image/png"),
            Picture(flat((1, 2, 3)), self("plain"), media="image/png", pixelated=True),
        ]
        return Section(self("pictures"), self("Pictures"), blocks)

    def scores(self):
        columns = ["samples", "n", "KID", "note"]
        rows = [
            ["run-10", 50000, 0.123456, "b"], ["run-2", 2000, -3.0, None], ["Base", 1000, None, "a"],
            ["run-1", 900, 1e-7, "c"], [None, 7, float("nan"), None], ["x", 8, 20.0, 3.5],
        ]  # fmt: skip
        rows = [[self(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
        wide = [[12345678.9] + [self("word")] * 13]
        blocks = [
            Table([self(c) for c in columns], rows, self("Scores, with n."), frozenset([1]), self("best")),
            Table([f"column {k}" for k in range(14)], wide, self("Wide"), sortable=False),
            Missing(self("No two-sample test."), self("None was made."), self("gebm two-sample-test digits-001")),
            Missing(self("No base."), self("Not trained.")),
        ]
        return Section(self("scores"), self("Scores"), blocks)


def synthetic_page(add=""):
    words = Words(add)
    facts = [("commit", "0123456789abcdef" * 3), ("machine", "one H200"), ("device", "cuda"), ("run", LONG)]
    headline = Text(words("GEBM samples are closer to the data than the base's: KID .021 against .055."), "good")
    facts = [(words(name), words(value)) for name, value in facts]
    return Page(words("digits-001"), words("run"), headline, facts, [words.run(), words.pictures(), words.scores()])
