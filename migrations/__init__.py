"""The migrations of ai_generated_content, in the order of their numbers."""
