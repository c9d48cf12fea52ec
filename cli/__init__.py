"""The command line of certnas: click and rich, no mathematics."""

import certnas as _certnas  # noqa: F401  gives this package its second name, `certnas.cli`
