"""Training of networks of cells: standard, adversarial and certified, from a genotype to a trained network."""

from certnas.training.images import training_images
from certnas.training.loop import TrainingProgress, fit
from certnas.training.objectives import OBJECTIVES
from certnas.training.recipe import FITTED, RECIPES, Recipe, recipe, recipe_table
from certnas.training.training import VALIDATION, Trained, train

__all__ = [
    "FITTED",
    "OBJECTIVES",
    "RECIPES",
    "VALIDATION",
    "Recipe",
    "Trained",
    "TrainingProgress",
    "fit",
    "recipe",
    "recipe_table",
    "train",
    "training_images",
]
