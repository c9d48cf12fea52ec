"""The names that options take, each with the registry of certnas that defines them."""

from .values import NameOrPath, Registered

NORM = Registered("certnas.bounds", "NORMS", "norm", ("linf", "l2", "l1"))
METHOD = Registered(
    "certnas.bounds",
    "METHODS",
    "method",
    ("ibp", "crown-ibp", "zonotope", "zonotope+crown", "crown", "alpha-crown"),
)
CERTIFIER_METHOD = Registered(
    "certnas.certifier.planning", "method_names", "method", (*METHOD.listed, "auto")
)
COMPARED_METHOD = Registered("certnas.crosscheck", "METHODS", "method", ("ibp", "crown-ibp", "crown"))
SLOPE = Registered("certnas.bounds", "SLOPES", "slope", ("adaptive", "parallel", "zero", "one"))
TARGETS = Registered(
    "certnas.certifier.request", "TARGETS", "targets", ("all", "random", "least", "runner-up")
)
ENGINE = Registered("certnas.engine", "ENGINES", "engine", ("processes", "ray"))
PRESET = Registered(
    "certnas.nas.search",
    "PRESETS",
    "preset",
    ("darts", "pc-darts", "dsrna-cb", "dsrna-jacobian", "advrush"),
)
ALGORITHM = Registered("certnas.nas.search", "ALGORITHMS", "algorithm", ("darts", "pc-darts", "random"))
METRIC = Registered(
    "certnas.nas.metrics", "METRICS", "metric", ("none", "cb", "jacobian", "curvature", "fgsm", "pgd")
)
SPACE = Registered("certnas.nas.space", "SPACES", "space", ("darts", "s1", "s2", "s3", "s4", "s5"))
RECIPE = Registered(
    "certnas.training",
    "RECIPES",
    "recipe",
    ("standard", "darts", "pc-darts", "pgd-at", "ibp", "crown-ibp"),
)
LAYOUT = Registered("certnas.models.preprocessing", "LAYOUTS", "layout", ("NCHW", "NHWC", "flat"))
CHANNELS = Registered("certnas.models.preprocessing", "CHANNELS", "order", ("rgb", "bgr"))
DATA_LAYOUT = Registered("certnas.data.archive", "LAYOUTS", "layout", ("nchw", "nhwc"))
MODEL = NameOrPath("certnas.models.embedded", "EMBEDDED", "model", ("digits-cnn", "digits-cell"))
DATASET = NameOrPath(
    "certnas.data",
    "DATASETS",
    "data",
    ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "svhn"),
)
ARCHITECTURE = NameOrPath("certnas.models", "ARCHITECTURES", "architecture")
GENOTYPE = NameOrPath("certnas.nas.space", "PUBLISHED", "genotype")
