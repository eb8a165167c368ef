"""Networks and their loaders.

from models import load_classifier, load_encoder, load_generator
"""

from utils.runs import devices  # noqa: F401  (first: it sets up TensorFlow)

# isort: split
from models.classifier import load_classifier as load_classifier
from models.encoder import load_encoder as load_encoder
from models.generator import load_generator as load_generator
