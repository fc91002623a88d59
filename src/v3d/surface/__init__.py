"""Silhouettes -> hull -> fitted signed distance field -> mesh."""
