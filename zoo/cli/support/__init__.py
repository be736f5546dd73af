"""What the commands share: names, models, output, errors, and the page that describes them."""
