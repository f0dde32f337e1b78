"""Where the heads of BERT's first layer look: the mean share of attention that goes to a place.

python experiments/attention_first_layer/where_heads_look.py RUN
"""

import sys

import numpy as np

import extractkit

ADDRESS = "transformer_layer_0/self_attention_layer/softmax:op/Softmax"


def main(directory: str) -> None:
    """Print a row a place, a column a head."""
    shares: dict[str, list[np.ndarray]] = {}
    for attention in extractkit.open(directory)[ADDRESS]:  # (heads, tokens, tokens) of one sample
        attention = attention.astype(np.float64)
        places = {
            "[CLS]": attention[:, :, 0],
            "[SEP]": attention[:, :, -1],
            "itself": np.diagonal(attention, 0, 1, 2),
            "the token before": np.diagonal(attention, -1, 1, 2),
            "the token after": np.diagonal(attention, 1, 1, 2),
        }
        for place, share in places.items():
            shares.setdefault(place, []).append(share.mean(axis=1))
    for place, found in shares.items():
        print(f"{place:17}", " ".join(f"{share:.2f}" for share in np.mean(found, axis=0)))


if __name__ == "__main__":
    main(sys.argv[1])
