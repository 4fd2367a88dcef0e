"""Vision Transformers from scratch. CONTRIBUTING.md and docs/architecture.md say what is where."""

import os

# GNU OpenMP's threads wait by spinning, which slows a step down up to fifty times where other programs run. After a
# short spin they sleep now, which costs nothing on an idle CPU. To be set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
