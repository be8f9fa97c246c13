"""What runs inside SGLang's processes and tells what no HTTP answer shows."""
