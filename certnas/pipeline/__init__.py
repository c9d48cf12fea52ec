"""One run from the search to certificates: `run(run_config(table), out)`."""

from certnas.pipeline.config import CertifyConfig, RunConfig, run_config, run_table
from certnas.pipeline.stages import Outcome, Watch, run

__all__ = ["CertifyConfig", "Outcome", "RunConfig", "Watch", "run", "run_config", "run_table"]
