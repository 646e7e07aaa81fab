"""Adapters on parameters of modules that are no layers: experts, routers, and whatever else multiplies with a matrix.

low_rank_weight        W + ΔW as a module's own code sees it, without ΔW in memory where that can be
adapted_parameters     a module with such parameters
asked                  what the names in target_modules and target_parameters mean
supported_parameters   which parameters can be adapted, and why others cannot
as_lora                the same adapters as stock PEFT holds them
"""
