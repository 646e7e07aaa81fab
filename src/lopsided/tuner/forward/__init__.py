"""How a layer and its adapters compute."""
