"""The processes of a run: how they meet, share out the model, check each other and stop together."""
