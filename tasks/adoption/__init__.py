"""What somebody's folder of an Object Detection API project holds, and what of it belongs together. Nothing in it is ever written."""
