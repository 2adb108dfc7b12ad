"""Published models by name: one file per model or family, with its sizes and the names of its public weights."""

from pctransformer.models.registry import ModelInfo, create_model, list_models, model_info, model_options

__all__ = ["ModelInfo", "create_model", "list_models", "model_info", "model_options"]
