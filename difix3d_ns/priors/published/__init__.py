"""Reading and converting the published Difix weights: JSON and safetensors only, nothing in a folder is executed."""
