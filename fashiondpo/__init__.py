"""FashionDPO: complete outfits with generated garments, and teach the generator what people like."""
