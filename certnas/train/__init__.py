"""Training of networks of cells: standard, adversarial and certified, from a genotype to a kept network."""

from certnas.train.images import training_images
from certnas.train.loop import Progress, fit
from certnas.train.objectives import OBJECTIVES
from certnas.train.recipe import FITTED, RECIPES, Recipe, recipe, recipe_table
from certnas.train.training import VALIDATION, Trained, train

__all__ = [
    "FITTED",
    "OBJECTIVES",
    "RECIPES",
    "VALIDATION",
    "Progress",
    "Recipe",
    "Trained",
    "fit",
    "recipe",
    "recipe_table",
    "train",
    "training_images",
]
