"""One colour and one symbol per method."""

# Six hues that stay apart for the common kinds of colour blindness (after Okabe and Ito 2008), each with
# at least 3:1 of contrast on the page's white and on its near-black. Six and seven have no common divisor:
# the first 42 methods differ in colour, symbol or both, and neighbours differ in both.
COLOURS = ("#2f7fc1", "#d1600a", "#0f9670", "#b0609c", "#94801d", "#cf4257")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "triangle-down")
FLOOR_COLOUR, FLOOR_SYMBOL = "#7d838c", "x"
# The symbols as SVG paths in a square of 16 about the origin, for legends outside of plots.
PATHS = {
    "circle": "M5.5,0A5.5,5.5 0 1,1 0,-5.5A5.5,5.5 0 0,1 5.5,0Z",
    "square": "M-5,-5H5V5H-5Z",
    "diamond": "M0,-7L7,0L0,7L-7,0Z",
    "triangle-up": "M-6,5H6L0,-6Z",
    "triangle-down": "M-6,-5H6L0,6Z",
    "cross": "M-2.2,-6.2H2.2V-2.2H6.2V2.2H2.2V6.2H-2.2V2.2H-6.2V-2.2H-2.2Z",
    "star": "M0,-7L1.8,-2.4L6.7,-2.2L2.9,0.9L4.1,5.7L0,3L-4.1,5.7L-2.9,0.9L-6.7,-2.2L-1.8,-2.4Z",
    "x": "M0,-2.6L3.2,-5.8L5.8,-3.2L2.6,0L5.8,3.2L3.2,5.8L0,2.6L-3.2,5.8L-5.8,3.2L-2.6,0L-5.8,-3.2L-3.2,-5.8Z",
}
