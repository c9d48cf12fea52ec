"""Architecture search. The algorithms do not depend on the metric, and the metrics do not depend on the algorithm.

config = from_table(SearchConfig, merged(PRESETS["dsrna-cb"], {"data": {"name": "digits"}}))
found = search(config, open_data(config), out=Path("runs/cb"))
"""

from certnas.nas.search.config import SearchConfig
from certnas.nas.search.presets import FITTED, PRESETS
from certnas.nas.search.searching import ALGORITHMS, GENOTYPE, effective, open_data, search
from certnas.nas.search.task import Found, SearchProgress

__all__ = [
    "ALGORITHMS",
    "FITTED",
    "GENOTYPE",
    "PRESETS",
    "Found",
    "SearchConfig",
    "SearchProgress",
    "effective",
    "open_data",
    "search",
]
