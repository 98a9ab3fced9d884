"""What chooses patches by their pixels, before an encoder computes anything."""
