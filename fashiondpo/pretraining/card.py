"""The card that goes with the mini models: what they are, from which data, how good, how to make them again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_FASHION_MNIST_LICENCE = """\
Fashion-MNIST is distributed under the MIT licence:

> The MIT License (MIT) Copyright © 2017 Zalando SE, https://tech.zalando.com
>
> Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
> documentation files (the “Software”), to deal in the Software without restriction, including without limitation the
> rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
> persons to whom the Software is furnished to do so, subject to the following conditions:
>
> The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
> Software.
>
> THE SOFTWARE IS PROVIDED “AS IS”, WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
> WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
> COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
> OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def write_card(folder: Path, figures: Mapping[str, Mapping[str, float]]) -> None:
    """Write README.md beside the models; every figure in it comes from the run that made them."""
    (folder / "README.md").write_text(render_card(figures))


def render_card(figures: Mapping[str, Mapping[str, float]]) -> str:
    """The card's text.

    Args:
        figures: measured figures by part, as `train_mini` returns them.
    """
    catalogue, conditions, clip = figures["catalogue"], figures["conditions"], figures["clip"]
    quality, ranking, critic = figures["quality"], figures["compatibility"], figures["critic"]
    seconds = {part: of_part["seconds"] for part, of_part in figures.items()}
    minutes = sum(seconds.values()) / 60
    times = "\n".join(f"| {part.replace('_', ' ')} | {value:.0f} |" for part, value in seconds.items())
    return f"""# The mini models

Small, real models for everything FashionDPO does, so that all of it runs on two CPU cores. Trained from scratch by this
repository on garment silhouettes that were tinted by rule. They show that the method works; they are not for painting
garments to sell.

![Given items, history, true item and seven candidates, for every category](samples.png)

## What is here

| folder | what | measured on silhouettes or users never trained on |
|---|---|---|
| `catalogue/` | {catalogue["items"]:,.0f} items, {catalogue["outfits"]:,.0f} outfits, {catalogue["users"]:,.0f} users; \
{catalogue["silhouettes"]:,.0f} silhouettes | users and silhouettes of train, valid and test are disjoint |
| `bundle/` | DiFashion: UNet of {figures["generator"]["parameters"] / 1e6:.1f} M parameters, CLIP text encoder, mutual \
encoder, VAE of {figures["autoencoder"]["parameters"] / 1e6:.2f} M | VAE: {figures["autoencoder"]["psnr_db"]:.1f} dB \
PSNR; generator: see below |
| `judges/clip` | open_clip ViT, features of two judges | names the category of {clip["category_accuracy"]:.1%} and the \
colour of {clip["colour_accuracy"]:.1%} |
| `judges/vbpr` | compatibility | AUC {ranking["auc_same_category"]:.3f} and FITB {ranking["fitb_same_category"]:.3f} \
against four items of the same category, {ranking["auc_random"]:.3f} and {ranking["fitb_random"]:.3f} against any |
| `judges/quality` | quality, levels 1…10 | AUC {quality["auc_corrupted"]:.3f} against corrupted, \
{quality["auc_damaged"]:.3f} against badly painted pictures, {quality["auc_painted"]:.3f} against the generator's own; \
{quality["auc_raw_over_decoded"]:.2f} of raw over decoded (0.5 is wanted) |
| `judges/held_out` | category of a picture, never used for a label | accuracy {figures["held_out"]["category"]:.1%} |
| `judges/held_out/critic` | garment or painted, never used for a label | AUC {critic["auc"]:.3f}; takes \
{critic["taken_for_garments"]:.1%} of garments and {critic["painted_taken_for_garments"]:.1%} of the generator's candidates \
for garments |

## Do the conditions matter?

{conditions_table(conditions)}

The same outfits and seeds each time. A generator that ignored history or outfit would show the same share in both rows
of a pair.

## Data and licence

Silhouettes: Fashion-MNIST (H. Xiao, K. Rasul, R. Vollgraf, 2017, arXiv:1708.07747;
https://github.com/zalandoresearch/fashion-mnist). {_FASHION_MNIST_LICENCE}
Colours, outfits, users and histories are made up by `fashiondpo/outfits/mini.py` from a seed; they describe nobody. The
model weights carry this repository's licence.

## Make them again

```
make assets
```

or `fashiondpo pretrain --preset mini --out assets/mini`, which goes on where it was if it is stopped. The models here
took {minutes:.0f} minutes of wall-clock time on a shared machine with two CPU cores:

| part | seconds |
|---|---|
{times}

`figures.json` holds every figure of this card as it was measured.
"""


def conditions_table(conditions: Mapping[str, float]) -> str:
    """Shares of painted garments with and without the right condition, as a Markdown table."""
    rows = {
        "in the user's palette, with the user's own history": conditions["palette"],
        "in the user's palette, with another user's history": conditions["palette_with_other_history"],
        "in harmony with the outfit, given that outfit": conditions["harmony"],
        "in harmony with the outfit, given another outfit": conditions["harmony_with_other_outfit"],
        "exactly the colour of the true item": conditions["colour"],
        "no garment to be made out": conditions["unreadable"],
    }
    lines = [f"| {name} | {share:.1%} |" for name, share in rows.items()]
    return "\n".join(["| painted garments that are | share |", "|---|---|", *lines])
