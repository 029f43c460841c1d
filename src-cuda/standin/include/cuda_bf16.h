// The stand-in has these types in emu.h.
