"""Images and series as tokens: train by predicting masked ones, then generate a temperature profile from an image.

python examples/tokenize_and_generate.py
"""

from pathlib import Path

import torch

from fusion.data import Landscape, LandscapeTiles, collate, fit_statistics
from fusion.token_fusion import TokenFusionConfig, TokenFusionPretraining
from fusion.token_fusion.generate import generate
from fusion.training import fit, load_model

TOKENIZERS = {
    "terrain": {"kind": "bins", "bins": 32},  # the mean of every patch and band
    "temperature": {"kind": "bins", "start": 0, "step": 30, "length": 12, "bins": 32},  # 12 monthly means
}


def main(out: Path = Path("runs/tokenize_and_generate"), epochs: int = 20) -> torch.Tensor:
    tiles = LandscapeTiles(Landscape(size=96, fine=4), ["terrain", "temperature"], target="biomass")
    train, test = tiles.split("train"), tiles.split("test")
    torch.manual_seed(0)
    config = TokenFusionConfig.preset("tiny", fit_statistics(train), train.grid, tokenizers=TOKENIZERS)
    module = TokenFusionPretraining(config, lr=2e-3)
    module.model.tokenizer.fit(train)  # once; what a code means travels with the model
    model = load_model(fit(module, train, None, out, epochs=epochs, batch_size=32))

    places = collate([test[i] for i in range(4)])
    made = generate(model, places, ["temperature"], conditioning=["terrain"], samples=16, seed=0)
    low, high = made.band("temperature")  # 10 to 90 % of the samples
    median = made.median("temperature")  # (4, 1, 12) degC
    for name, line in zip(places.names, median[:, 0].tolist(), strict=True):
        print(name, " ".join(f"{value:5.1f}" for value in line), "degC")
    print(f"mean width of the band: {(high - low).mean():.1f} degC")
    return median


if __name__ == "__main__":
    main()
