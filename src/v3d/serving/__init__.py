"""The faces that other programs see: web page, REST, batch, cluster. No mathematics in here."""
