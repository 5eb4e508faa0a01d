"""What passes between the parts: catalogue, wire, identity, ports, topics."""
